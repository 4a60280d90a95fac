"""`python -m model_server new FILE...`: a model's folder from a network's file.

Owns the command line, the copying and the labels. network_facts.py reads the network, model_draft.py guesses
and writes model.toml, check.py judges the result.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from broker.errors import ServiceError, first_line
from broker.keys import MODEL_NAME
from model_server.catalogue import file_kinds, labels
from model_server.catalogue.model_spec import Source
from model_server.catalogue.model_toml import SOURCES, Darknet, TorchNetwork
from model_server.catalogue.toml_errors import CatalogueError
from model_server.commands import check, model_draft, network_facts
from model_server.commands.model_draft import IMAGENET, ModelDraft
from model_server.commands.terminal import DONE, IMPOSSIBLE, REFUSED, complain, print_line
from settings import PROJECT, SettingError, Settings

_EPILOG: Final = """\
Files that belong to the network come with it: weights (.weights, .data, .pdiparams), a file of labels
(.txt, .csv, .names). What the file does not say is guessed, and a comment in model.toml says so.
exit status: 0 the model can be served; 1 not yet, and the last line says why; 2 nothing was written.
"""

_LABELS: Final = (".txt", ".csv", ".names")

_BESIDE: Final = (".data", "_data", ".pdiparams")
"""Ends of files that hold the weights of a network of the same name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _options(arguments)
    try:
        folder = _folder(options, Settings.from_env().require_directory("new"))
        source = _source(options.files, options.network)
    except (SettingError, CatalogueError) as error:
        return complain(str(error), IMPOSSIBLE)
    try:
        to_correct = _make(folder, source, options.files)
    except BaseException as error:  # half a folder is left by none, not by Ctrl-C either
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            return complain(f"{folder} can't be written: {first_line(error)}.", IMPOSSIBLE)
        if isinstance(error, ServiceError | CatalogueError):
            return complain(f"{options.files[0]}: {_sentence(str(error))}", IMPOSSIBLE)
        raise
    print_line(f"{folder / 'model.toml'}:\n")
    print_line((folder / "model.toml").read_text("utf-8"))
    status = check.main([str(folder)])
    if status != DONE:
        return complain(
            f"Correct {to_correct}, then: .venv/bin/python -m model_server check {folder}", REFUSED
        )
    return DONE


def _sentence(reason: str) -> str:
    """The reason with its full stop; none behind a command, which would be copied with it."""
    return reason if reason.endswith(".") or ": .venv/bin/python -m " in reason else f"{reason}."


def _make(folder: Path, source: Source, files: list[Path]) -> str:
    """Copy the files and write model.toml; return what is to be corrected if the check refuses the model.

    Raises ServiceError, CatalogueError or OSError.
    """
    folder.mkdir(parents=True)
    for path in _with_weights(files):
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, folder / path.name)
    given = _given_labels(files)
    count = len(labels.read(given)) if given is not None else 0
    draft = model_draft.draft(network_facts.read(folder, source), count)
    _write(folder, draft, files)
    if given is not None and draft.labels not in (0, count):
        return f"{folder / given.name} (the network needs {draft.labels} labels, not {count})"
    return str(folder / "model.toml")


def _folder(options: argparse.Namespace, models_dir: Path) -> Path:
    """The folder to make. Raises CatalogueError if there is one, or if its name can't be a model's."""
    missing = next((path for path in options.files if not path.exists()), None)
    if missing is not None:
        raise CatalogueError(f"There is no file {missing}.")
    names = [path.name for path in options.files]
    if len(set(names)) < len(names):
        raise CatalogueError(f"Two files have one name, and a model has one folder: {', '.join(names)}.")
    name = options.name or re.sub(r"[^a-z0-9_-]+", "-", options.files[0].stem.lower()).strip("-")
    if not MODEL_NAME.fullmatch(name):
        raise CatalogueError(f"{name!r} can't be a model's name: use a-z, 0-9, _ and - (--name NAME).")
    folder = models_dir / name
    if folder.exists():
        raise CatalogueError(f"{folder} is there already: choose another name with --name.")
    return folder


def _source(files: list[Path], named: str | None) -> Source:
    """The source of the first file; `named` is --network.

    Raises CatalogueError for a file of no known kind.
    """
    network = files[0]
    kind = file_kinds.kind_of(network)
    if kind == "darknet":
        weights = next((path for path in files if path.suffix == ".weights"), network.with_suffix(".weights"))
        cfg = next((path for path in files if path.suffix == ".cfg"), network.with_suffix(".cfg"))
        for path in (cfg, weights):
            if not path.is_file():
                raise CatalogueError(f"There is no file {path}: a Darknet network is a .cfg and a .weights.")
        return Darknet(cfg=cfg.name, weights=weights.name)
    if kind == "torch_network":
        return _of_weights(network, named)
    if named is not None:
        raise CatalogueError(f"--network is for weights without a network, and {network} is not such a file.")
    if kind not in SOURCES:
        raise CatalogueError(
            f"{network} is of no kind that is served.{file_kinds.unserved(network)} docs/models.md has them."
        )
    source: Source = SOURCES[kind](network.name)
    return source


def _of_weights(file: Path, named: str | None) -> TorchNetwork:
    """The source of a state dict. Raises CatalogueError if --network does not say what it belongs to."""
    library, _, name = (named or "").partition(":")
    names = file_kinds.weight_names(file)
    has = "has weights without a network"
    if names:
        last = [each for each in names if file_kinds.is_of_last_layer(each) and each not in names[:4]]
        has += f" ({', '.join([*names[:4], '...', *last])})"
    if library == "timm" and name:
        return TorchNetwork(library="timm", name=name, weights=file.name)
    if library == "torchvision" and name:
        return TorchNetwork(library="torchvision", name=name, weights=file.name)
    raise CatalogueError(
        f"{file} {has}. Say which they belong to, by its name in timm or torchvision: --network "
        "timm:resnet18, or --network torchvision:resnet18. A network of your own: save it with "
        "torch.jit.script(network.eval()).save(...) instead."
    )


def _with_weights(files: list[Path]) -> list[Path]:
    """The files, and those beside the first that hold its weights."""
    network = files[0]
    beside = [network.with_name(stem + end) for end in _BESIDE for stem in (network.name, network.stem)]
    if network.suffix in (".cfg", ".weights"):
        beside += [network.with_suffix(".cfg"), network.with_suffix(".weights")]
    return list(dict.fromkeys([*files, *(path for path in beside if path.is_file())]))


def _given_labels(files: list[Path]) -> Path | None:
    return next((path for path in files if path.suffix.lower() in _LABELS), None)


def _write(folder: Path, draft: ModelDraft, files: list[Path]) -> None:
    """Write model.toml, and labels if the task has some and none were given."""
    given, name, why = _given_labels(files), "labels.txt", ""
    if given is not None:
        name = given.name
    elif draft.facts.declared is not None and len(draft.facts.declared.classes) == draft.labels > 0:
        why = "as the file's metadata name them"
        _lines(folder / name, [" ".join(each.split()) for each in draft.facts.declared.classes])
    elif draft.labels == IMAGENET:
        name, why = "labels.csv", "ImageNet has so many classes"
        shutil.copy2(PROJECT / "models" / "resnet50" / "labels.csv", folder / name)
    elif draft.labels == IMAGENET + 1:
        why = "ImageNet's classes after one for the background, as TensorFlow's Slim has them"
        known = labels.read(PROJECT / "models" / "resnet50" / "labels.csv")
        _lines(folder / name, ["background", *(label.label for label in known)])
    elif draft.labels:
        why = "write the names of the classes into it, in the order of training"
        _lines(folder / name, [f"class {number}" for number in range(draft.labels)])
    (folder / "model.toml").write_text(draft.text(name, why), "utf-8")


def _lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m model_server new",
        description="Make a model's folder from a network's file, and check it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="the network, then files that go with it"
    )
    parser.add_argument(
        "--network",
        metavar="LIBRARY:NAME",
        help="what weights belong to: timm:resnet18, torchvision:resnet18",
    )
    parser.add_argument("--name", metavar="NAME", help="the model's name (that of the file)")
    # Options may stand between files. Of what follows `--`, argparse of Python 3.11 then takes nothing.
    is_mixed = "--" not in (arguments or ())
    return parser.parse_intermixed_args(arguments) if is_mixed else parser.parse_args(arguments)
