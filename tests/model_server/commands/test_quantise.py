"""The command that makes an int8 network: what it tells, refuses and writes; and NNCF itself."""

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from model_server.catalogue.model_spec import ModelSpec, read_model
from model_server.commands import int8_network, quantise
from model_server.commands.int8_network import QuantisedPart
from model_server.engines.engine import EngineOptions
from model_server.engines.openvino import conversion, runtime
from model_server.engines.openvino.engine import FITS_16_BITS, PROCESSOR, OpenVINOEngine, int8_ingredients
from model_server.engines.openvino.store import Store
from settings import PROJECT
from tests.model_server.commands.test_picture_folder import fill
from tests.model_server.engines import tiny

WRITE_INT8 = int8_network.write


class Said(NamedTuple):
    """What one run of the command came to."""

    status: int
    out: str
    err: str


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return tiny.spec(tmp_path / "models" / "tiny")


@pytest.fixture
def run(
    spec: ModelSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Said]:
    """The command on a tiny model, without Keras and NNCF.

    Its int8 network is `wrong` until `needed` operations stay in float. "part 0" of twelve is the worst.
    """
    monkeypatch.setenv("CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(quantise, "read_spec", lambda *_: spec)
    monkeypatch.setattr(conversion, "_run_child", lambda _spec, _width, folder: tiny.write(folder))

    def run(*arguments: str, wrong: float = 0.0, real: bool = False, needed: int = 1000) -> Said:
        def write(_full: Path, int8: Path, _pixels: object, *, floats: Sequence[str], narrow: bool) -> None:
            del narrow
            tiny.write(int8.parent, wrong=0.0 if len(floats) >= needed else wrong)

        def rank(*_: object, **__: object) -> Iterator[tuple[float, QuantisedPart]]:
            order = (5, 11, 0, 2, 1, 3, 4, 6, 7, 8, 9, 10)
            yield from ((1 / (1 + part), QuantisedPart("", (f"part {part}",))) for part in order)

        monkeypatch.setattr(int8_network, "write", WRITE_INT8 if real else write)
        monkeypatch.setattr(int8_network, "rank", rank)
        status = quantise.main(["tiny", *arguments])
        return Said(status, *capsys.readouterr())

    return run


@pytest.mark.slow
def test_it_tells_what_int8_costs_and_precision_int8_serves_it(
    run: Callable[..., Said], spec: ModelSpec, tmp_path: Path
) -> None:
    said = run("--pictures", str(fill(tmp_path / "p")), "--calibrate", "8")
    assert (said.status, said.err) == (0, "")
    assert "tiny: 30 pictures with labels; 8 are for calibration.\n" in said.out
    assert re.search(r"on 22 pictures held out +fp32 +int8", said.out)
    assert re.search(r"same best class as fp32 +1\.0000", said.out)
    accuracy = re.search(r"accuracy +([\d.]+) +([\d.]+)", said.out)
    assert accuracy
    assert accuracy[1] == accuracy[2]
    engine = OpenVINOEngine(spec, "int8", EngineOptions(4, tmp_path / "cache"))
    assert engine.precision == "int8"
    entry = Store(tmp_path / "cache").find("tiny", int8_ingredients(spec))
    assert entry is not None
    assert entry.manifest()["agreement"] == 1.0
    assert entry.manifest()["calibrated_on"] == 8
    assert entry.manifest()[FITS_16_BITS] is runtime.saturates_int8()
    assert entry.manifest()[PROCESSOR] == ("avx2" if runtime.saturates_int8() else "vnni")
    assert entry.manifest()["in_float"] == []


@pytest.mark.slow
def test_pictures_without_labels_tell_agreement_alone(run: Callable[..., Said], tmp_path: Path) -> None:
    said = run("--pictures", str(fill(tmp_path / "p", ("a", "b", "c"))))
    assert said.status == 0
    why = "15 are for calibration, not 300, since half of them are held out to judge.\n"
    assert f"30 pictures without labels; {why}" in said.out
    assert "accuracy" not in said.out


@pytest.mark.slow
def test_it_says_how_many_files_could_not_be_read(run: Callable[..., Said], tmp_path: Path) -> None:
    folder = fill(tmp_path / "p")
    (folder / "dark" / "broken.jpg").write_bytes(b"no picture")
    said = run("--pictures", str(folder), "--calibrate", "8")
    assert "8 are for calibration; files that could not be read as pictures: 1.\n" in said.out


def _entry(spec: ModelSpec, tmp_path: Path) -> dict[str, Any] | None:
    entry = Store(tmp_path / "cache").find("tiny", int8_ingredients(spec))
    return None if entry is None else entry.manifest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("saturates", "options", "processor"),
    [(True, (), "avx2"), (False, (), "vnni"), (False, ("--any-processor",), "avx2")],
)
def test_the_record_names_the_processors_that_it_was_made_for(
    run: Callable[..., Said],
    spec: ModelSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    saturates: bool,
    options: tuple[str, ...],
    processor: str,
) -> None:
    monkeypatch.setattr(runtime, "saturates_int8", lambda: saturates)
    said = run("--pictures", str(fill(tmp_path / "p")), *options)
    assert said.status == 0
    record = _entry(spec, tmp_path)
    assert record
    assert (record[PROCESSOR], record[FITS_16_BITS]) == (processor, processor == "avx2")
    place = {"avx2": "for every processor (weights of 7 bits)", "vnni": "for processors with VNNI"}[processor]
    assert f"s {place}. Written to" in said.out


@pytest.mark.slow
def test_too_little_agreement_writes_nothing(
    run: Callable[..., Said], spec: ModelSpec, tmp_path: Path
) -> None:
    folder = str(fill(tmp_path / "p", ("a", "b", "c"), each=20))
    said = run("--pictures", folder, wrong=30.0)
    assert said.status == 1
    assert re.search(r"It agrees with fp32 on 0\.\d+ of the pictures, less than 0\.95", said.err)
    assert said.err.endswith("(--least-agreement): nothing was written.\n")
    assert _entry(spec, tmp_path) is None
    assert run("--pictures", folder, "--least-agreement", "0", wrong=30.0).status == 0
    assert _entry(spec, tmp_path) is not None


@pytest.mark.slow
def test_where_the_pictures_have_labels_the_accuracy_lost_decides(
    run: Callable[..., Said], spec: ModelSpec, tmp_path: Path
) -> None:
    folder = str(fill(tmp_path / "p", ("dark", "bright"), each=20))
    said = run("--pictures", folder, "--least-agreement", "0", wrong=30.0)
    assert said.status == 1
    assert re.search(r"It loses 0\.\d+ of accuracy, more than 0\.01 \(--most-lost\): nothing was", said.err)
    assert _entry(spec, tmp_path) is None
    assert run("--pictures", folder, "--least-agreement", "1", "--most-lost", "1", wrong=30.0).status == 0


def test_labels_that_fp32_does_not_find_do_not_judge(run: Callable[..., Said], tmp_path: Path) -> None:
    folder = fill(tmp_path / "p", ("a", "b"), each=20)
    (folder / "a").rename(folder / "bright")  # the wrong way round: fp32 is hardly ever right
    (folder / "b").rename(folder / "dark")
    said = run("--pictures", str(folder), "--most-lost", "1", "--minutes", "0", wrong=30.0)
    assert said.status == 1
    assert "It agrees with fp32 on" in said.err


@pytest.mark.slow
@pytest.mark.parametrize(("needed", "in_float"), [(1, 1), (3, 4), (8, 8)])
def test_what_costs_most_stays_in_float_and_as_little_as_does(
    run: Callable[..., Said], spec: ModelSpec, tmp_path: Path, needed: int, in_float: int
) -> None:
    said = run("--pictures", str(fill(tmp_path / "p")), wrong=30.0, needed=needed)
    assert (said.status, said.err) == (0, "")
    assert "All in int8, it" in said.out
    assert "Looking for what must stay in float: 10 min at most." in said.out
    assert re.search(r"on 15 pictures held out +fp32 +mixed", said.out)
    assert re.search(rf"operations that stay in float +{in_float}\n", said.out)
    record = _entry(spec, tmp_path)
    assert record
    assert record["in_float"] == [f"part {number}" for number in range(in_float)]
    assert record["agreement"] == 1.0


@pytest.mark.slow
def test_the_search_ends_in_time_and_without_what_helps(run: Callable[..., Said], tmp_path: Path) -> None:
    folder = str(fill(tmp_path / "p"))
    said = run("--pictures", folder, "--minutes", "0", wrong=30.0, needed=1)
    assert said.status == 1
    assert "Looking" not in said.out
    said = run("--pictures", folder, wrong=30.0, needed=12)
    assert said.status == 1
    assert "With 8 operations in float, it " in said.out
    assert "With 16" not in said.out
    assert re.search(r"operations that stay in float +8\n", said.err)
    assert run("--pictures", folder, "--minutes", "1e-9", wrong=30.0, needed=1).status == 1


def test_what_can_t_be_tried_is_said_so(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = run("--pictures", str(tmp_path / "none"))
    assert (said.status, said.err) == (2, f"{tmp_path}/none is not a folder.\n")
    monkeypatch.setenv("MAX_PIXELS", "many")
    assert run("--pictures", str(tmp_path)).err.startswith("MAX_PIXELS='many' is not")
    for arguments in (
        [],
        ["--pictures", ".", "--calibrate", "0"],
        ["--pictures", ".", "--least-agreement", "2"],
        ["--pictures", ".", "--most-lost", "-1"],
        ["--pictures", ".", "--minutes", "2000"],
    ):
        with pytest.raises(SystemExit) as refused:
            run(*arguments)
        assert refused.value.code == 2


def test_a_broken_model_toml_is_said_in_whole_sentences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path))
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "model.toml").write_text('task = "classification"\n')
    assert quantise.main(["net", "--pictures", "."]) == 2
    said = capsys.readouterr().err
    assert "Object missing required field" in said
    assert said.endswith("every field.\n")


def test_without_nncf_it_says_what_to_install(
    run: Callable[..., Said], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nncf", None)
    said = run("--pictures", str(fill(tmp_path / "p")), real=True)
    assert said.status == 2
    assert "'nncf' is not installed. Install" in said.err
    python, *words, needed = shlex.split(said.err.partition("command needs: ")[2])
    assert words == ["-m", "pip", "install", "-r"]
    assert (Path.cwd() / python) == Path(sys.executable)
    assert "nncf" in (Path.cwd() / needed).read_text("utf-8").splitlines()


def test_the_command_that_installs_is_short_from_the_project_s_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr(sys, "executable", str(PROJECT / ".venv" / "bin" / "python"))
    right = ".venv/bin/python -m pip install -r model_server/requirements-quantise.txt"
    assert quantise._install_command() == right
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", "/opt/a python/bin/python3")
    assert quantise._install_command().startswith("'/opt/a python/bin/python3' -m pip install -r /")


@pytest.mark.slow
def test_it_is_a_command_of_the_model_server() -> None:
    command = [sys.executable, "-m", "model_server", "quantise", "--help"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m model_server quantise")


@pytest.mark.slow
@pytest.mark.optional
@pytest.mark.timeout(300)
def test_the_digits_stay_readable_in_int8(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    from model_server.engines.check import drawn_pictures  # noqa: PLC0415
    from model_server.engines.choice import EngineChoice  # noqa: PLC0415

    digits = read_model(PROJECT / "models", "digits")
    for number, drawn in enumerate(drawn_pictures.draw(digits.input)):
        (tmp_path / "p" / str(number)).mkdir(parents=True)
        for turn in range(6):
            turned = Image.fromarray(drawn[:, :, 0]).rotate(4 * turn - 10)
            turned.resize((60 + turn, 60)).save(tmp_path / "p" / str(number) / f"{turn}.png")
    command = [sys.executable, "-m", "model_server", "quantise", "digits", "--any-processor"]
    command += ["--pictures", str(tmp_path / "p")]
    environment = {"CACHE_DIR": str(tmp_path / "cache"), "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"accuracy +[01]\.\d+ +(1\.0|0\.9)", done.stdout)
    entry = Store(tmp_path / "cache").find("digits", int8_ingredients(digits))
    assert entry is not None
    constants = [each for each in runtime.core().read_model(entry.network).get_ops() if _is_int8(each)]
    assert len(constants) > 3
    # 2 * 255 * 64 fits into 16 bits: no processor's sums overflow.
    assert max(int(np.abs(each.get_data().astype(int)).max()) for each in constants) <= 64
    choice = EngineChoice("openvino", "int8")
    engine = OpenVINOEngine(digits, choice.precision, EngineOptions(8, tmp_path / "cache"))
    assert engine.predict(drawn_pictures.draw(digits.input))[0].argmax(axis=1).tolist() == list(range(10))


def _is_int8(node: Any) -> bool:  # noqa: ANN401 - an openvino.Node
    kind: str = node.get_output_element_type(0).get_type_name()
    return kind == "i8" and bool(node.get_type_name() == "Constant")
