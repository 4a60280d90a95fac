"""The documents say what is true: tables against the code, README's blocks against a running service."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from playwright._impl._driver import compute_driver_executable

import web.errors
from broker.keys import Keys, ModelKeys
from loadtest.cli.arguments import parser
from model_server.catalogue.model_spec import Source, read_model
from model_server.catalogue.model_toml import Input, ModelToml, Normalisation, Output
from settings import PROJECT, Settings
from tests.e2e.test_serve import PARTS, Serving, project
from tests.support import ROOT

__all__ = ["project"]

README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text("utf-8")
LOAD_TESTING = (ROOT / "docs" / "load-testing.md").read_text("utf-8")


def _blocks(kind: str, document: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def told(kind: str, document: str) -> list[tuple[str, str]]:
    """Each block of a kind, with the block of text after it: what it prints."""
    return re.findall(rf"^```{kind}\n(.*?)^```\n\n```text\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def _commands(document: str) -> list[str]:
    lines = [line for block in _blocks("sh", document) for line in block.splitlines()]
    return [line for line in lines if line.startswith(("curl", ".venv/bin/python"))]


def test_the_table_of_settings_is_the_settings() -> None:
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| ([^|]+) \|", README, re.MULTILINE))
    defaults = Settings.from_env({})
    assert list(rows) == [field.name.upper() for field in dataclasses.fields(Settings)]
    for field in dataclasses.fields(Settings):
        said, value = rows[field.name.upper()].strip().strip("`"), getattr(defaults, field.name)
        if field.name in ("models_dir", "cache_dir"):
            assert PROJECT / said == Path(value)
        elif field.name in ("fallback_model", "cors_origins"):
            assert (said, bool(value)) == ("unset", False)
        elif isinstance(value, tuple):
            assert said == ",".join(value)
        elif isinstance(value, float | int):
            assert float(said) == value
        elif field.name not in ("redis_url", "default_model"):
            assert said == value


def test_the_table_of_errors_is_the_table_of_errors() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", README, re.MULTILINE)
    said = {code: int(status) for status, text in rows for code in re.findall(r"`([a-z_]+)`", text)}
    internal = {"malformed_message", "lease_lost", "unavailable"}
    assert said == {code: status for code, status in web.errors.STATUS.items() if code not in internal}


def test_the_table_of_keys_is_keys_py() -> None:
    said = set(re.findall(r"^\| (?:channel )?`(bw:[^`]+)` \|", ARCHITECTURE, re.MULTILINE))
    keys, model = Keys("bw:"), ModelKeys("bw:", "model")
    names = {
        keys.models,
        keys.probe,
        keys.results_channel("<frontend>"),
        model.card,
        model.states,
        model.workers,
    }
    names |= {model.queue, model.bell, model.claims("<worker>"), model.attempts, model.dead}
    assert said == names | {model.result("<uuid>")}


def test_the_load_tester_s_options_are_those_of_its_page() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", LOAD_TESTING))
    known = {option for action in parser()._actions for option in action.option_strings}
    assert named - known == set()
    assert known - named - {"-h", "--help", "--seed", "--timeout", "--no-keep-alive"} == set()


def test_every_block_of_the_page_on_clients_is_of_a_kind_that_is_run() -> None:
    kinds = set(re.findall(r"^```(\w+)$", CLIENTS, re.MULTILINE))
    assert kinds == {"python", "js", "mjs", "sh", "text"}


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"\]\(([^)#:]+)\)", README)) | {"docker-compose.yml", "docker-compose.gpu.yml"}
    named |= set(re.findall(r"@([\w./-]+\.png)", README))
    assert {name for name in named if not (ROOT / name).is_file()} == set()


_LABELS = "index,class_id,label\n" + "".join(f"{index},{index},class {index}\n" for index in range(5))


def test_the_model_toml_of_the_readme_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.toml").write_text(_blocks("toml")[0])
    (folder / "labels.csv").write_text(_LABELS)
    assert read_model(tmp_path, "mine").input.shape == (64, 64, 3)


def test_every_model_toml_of_the_page_on_models_is_taken(tmp_path: Path) -> None:
    kinds = []
    for number, block in enumerate(_blocks("toml", MODELS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.toml").write_text(block)
        (folder / "labels.csv").write_text(_LABELS)
        for name in ("labels.txt", "output_labels.txt", "imagenet_labels.txt", "coco.names"):
            (folder / name).write_text("a\nb\nc\nd\ne\n")
        kinds.append(type(read_model(tmp_path, str(number)).source))
    assert set(kinds) == set(get_args(Source))


def test_every_field_is_on_the_page_on_models() -> None:
    table = MODELS[MODELS.index("## Every field") : MODELS.index("### Labels")]
    named = set(re.findall(r"`([a-z]+)`", table)) | {"source", "input", "output", "detection"}
    structs = (ModelToml, Input, Output, Normalisation, *get_args(Source))
    fields = {field for struct in structs for field in struct.__struct_fields__} - {"mean", "std"}
    assert fields - named <= {"file", "folder", "name", "cfg", "weights"}  # each kind's own, on the same page
    assert {f"`{each.__struct_config__.tag}`" for each in get_args(Source)} <= set(
        re.findall(r"^\| (`[a-z_]+`) \|", MODELS, re.MULTILINE)
    )


def test_every_make_target_that_the_readme_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)$", "\n".join(_blocks("sh")), re.MULTILINE)) <= targets


@pytest.fixture
def serving(project: Path) -> Iterator[Serving]:
    for part in ("docs", "loadtest", "stress_test.py", "README.md"):
        assert part not in PARTS
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, project / part)
        else:
            shutil.copy(source, project / part)
    (project / ".venv").symlink_to(ROOT / ".venv")
    running = Serving(project, MODELS="digits")
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_run_and_answer_as_the_documents_say(serving: Serving, project: Path) -> None:
    assert len(_commands(README)) >= 4
    assert len(_commands(LOAD_TESTING)) >= 4
    said = json.loads(_blocks("json")[0])
    for command in [*_commands(README), *_commands(LOAD_TESTING)]:
        words = [word.replace("http://localhost:5000", serving.url) for word in shlex.split(command)]
        if words[0] != "curl":
            words[0] = str(ROOT / words[0])
        if "stress_test.py" in words:
            words += ["--url", serving.url]
        done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        if "Prefer: respond-async" in command:
            assert " 202 " in done.stdout.splitlines()[0]
            assert "Location: /predictions/" in done.stdout
        elif words[0] == "curl":
            answer = json.loads(done.stdout)
            assert list(answer) == list(said)
            assert answer["predictions"][0]["label"] == said["predictions"][0]["label"]
            assert answer["model_version"] == said["model_version"]
            assert list(answer["predictions"][0]) == list(said["predictions"][0])
            assert list(answer["timings_ms"]) == list(said["timings_ms"])


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_clients_print_what_their_page_says(serving: Serving, project: Path) -> None:
    """Python by this one, JavaScript by Playwright's Node; that of a page is run by tests/browser."""
    node = compute_driver_executable()[0]
    (shell,) = _blocks("sh", CLIENTS)
    ways = [
        ("python", [sys.executable, "-W", "ignore::ResourceWarning", "-c"], told("python", CLIENTS), 3),
        ("mjs", [node, "--input-type=module", "-e"], told("mjs", CLIENTS), 1),
        ("sh", ["bash", "-euc"], [(shell, "")], 1),
    ]
    for kind, way, blocks, count in ways:
        assert len(blocks) == len(_blocks(kind, CLIENTS)) == count
        for block, printed in blocks:
            words = [*way, block.replace("http://localhost:5000", serving.url)]
            done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            answers = [json.loads(line) for line in done.stdout.splitlines()] if kind == "sh" else []
            assert [each["predictions"][0]["label"] for each in answers] == ["7"] * 3 * (kind == "sh")
            assert kind == "sh" or done.stdout == printed
