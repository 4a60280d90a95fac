"""The documents say what is true: tables against the code, links against files, commands by running them."""

import ast
import contextlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from gunicorn.workers.gthread import ThreadWorker
from playwright._impl._driver import compute_driver_executable

import web.errors
from broker.keys import Keys, ModelKeys
from clients import BatchwireError
from deploy.serve import programs
from loadtest.cli.arguments import parser
from model_server.catalogue.model_spec import Source, read_model
from model_server.catalogue.model_toml import Input, ModelToml, Normalisation, Output
from model_server.tasks import TASKS
from settings import Settings
from tests.e2e.hostile_cases import CASES
from tests.e2e.test_serve import PARTS, SMALL, Serving, copied_project
from tests.support import ROOT, keras_fork
from tests.support.stack import free_port
from tests.support.waiting import eventually
from web.server.worker import PatientWorker

README = (ROOT / "README.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
HTTP = (ROOT / "docs" / "http.md").read_text("utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
TASKS_PAGE = (ROOT / "docs" / "tasks.md").read_text("utf-8")
TUTORIALS = (ROOT / "docs" / "tutorials.md").read_text("utf-8")
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text("utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text("utf-8")
RELIABILITY = (ROOT / "docs" / "reliability.md").read_text("utf-8")
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = sorted(
    page for at in ("*.md", "docs/*.md", "[a-z]*/README.md", "web/server/README.md") for page in ROOT.glob(at)
)

_RECIPE_BLOCK = r"^\*\*`([\w./-]+)`\*\*\n\n```(python|diff)\n(.*?)^```$"
RECIPES = re.findall(
    r"^\*\*`([\w./-]+)`\*\*\n\n```(python|diff)$", CONTRIBUTING.read_text("utf-8"), re.MULTILINE
)
"""The files that CONTRIBUTING.md's recipes write or change."""
LOAD_TESTING = (ROOT / "docs" / "load-testing.md").read_text("utf-8")


def _recipe(title: str) -> str:
    """A section of CONTRIBUTING.md, up to the next."""
    return CONTRIBUTING.read_text("utf-8").split(f"## {title}\n")[1].split("\n## ")[0]


def _blocks(kind: str, document: str = README) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def told(kind: str, document: str) -> list[tuple[str, str]]:
    """Each block of a kind, with the block of text after it: what it prints."""
    return re.findall(rf"^```{kind}\n(.*?)^```\n\n```text\n(.*?)^```", document, re.MULTILINE | re.DOTALL)


def _commands(document: str) -> list[str]:
    lines = [line for block in _blocks("sh", document) for line in block.splitlines()]
    return [line for line in lines if line.startswith(("curl", ".venv/bin/python"))]


def test_the_table_of_errors_is_the_table_of_errors() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (.+) \|$", HTTP, re.MULTILINE)
    said = {code: int(status) for status, text in rows for code in re.findall(r"`([a-z_]+)`", text)}
    internal = {"malformed_message", "lease_lost", "unavailable"}
    assert said == {code: status for code, status in web.errors.STATUS.items() if code not in internal}


def test_the_table_of_keys_is_keys_py() -> None:
    rows = re.findall(r"^\| (?:channel )?(`bw:[^|]+`) \|", ARCHITECTURE, re.MULTILINE)
    said = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    keys, model = Keys("bw:"), ModelKeys("bw:", "model")
    api_key = keys.of_api_key("<name>")
    names = {
        keys.clock,
        keys.id_secret,
        keys.history,
        keys.history_writer,
        keys.contract,
        keys.models,
        keys.probe,
        keys.results_channel("<frontend>"),
        keys.results_channel("<uuid>"),
        model.card,
        model.states,
        model.workers,
        model.cache,
        model.cached("<digest>"),
        model.trace("<uuid>"),
    }
    names |= {model.queue, model.polled, model.bell, model.claims("<worker>"), model.attempts, model.dead}
    names |= {
        model.webhooks,
        model.callbacks,
        model.undelivered,
        model.turns,
        model.polled_turns,
        model.asked,
        model.shards,
        model.clock,
        model.results_channel_prefix + "<frontend>",
        model.results_channel_prefix + "<uuid>",
    }
    names |= {f"{kind}:<lane>" for kind in (model.queue, model.polled)}
    names |= {model.request("<name>"), model.result("<uuid>"), model.labels("<version>")}
    names |= {keys.api_keys, keys.api_keys_used, api_key.bucket, api_key.jobs, api_key.polled}
    assert said == names


def test_the_load_tester_s_options_are_those_of_its_page() -> None:
    named = set(re.findall(r"--[a-z][a-z-]+", LOAD_TESTING))
    known = {option for action in parser()._actions for option in action.option_strings}
    assert named - known == set()
    assert known - named - {"-h", "--help", "--seed", "--timeout", "--no-keep-alive"} == set()


def test_the_load_tester_s_page_kills_what_make_serve_runs(tmp_path: Path) -> None:
    killed = set(re.findall(r"kill\.sh ([\w-]+)", LOAD_TESTING))
    config = programs.write(Settings.from_env({}), tmp_path, embedded_redis=True).read_text("utf-8")
    assert killed
    for name in killed:
        assert re.search(rf"^command = .*\b{name}\b", config, re.MULTILINE), name


def test_the_table_of_hostile_uploads_is_the_tests_own() -> None:
    rows = re.findall(r"^\| (.+) \| (\d{3}) \| `(\w+)` \| \d+ \|$", RELIABILITY, re.MULTILINE)
    assert rows == [(case.name, str(case.status), case.told) for case in CASES]


def test_the_client_s_errors_are_those_of_its_page() -> None:
    table = CLIENTS[CLIENTS.index("| error | when |") : CLIENTS.index("All of them are")]
    errors = {each.__name__ for each in BatchwireError.__subclasses__()}
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == errors


def test_every_block_of_the_page_on_clients_is_of_a_kind_that_is_run() -> None:
    kinds = set(re.findall(r"^```(\w+)$", CLIENTS, re.MULTILINE))
    assert kinds == {"python", "js", "mjs", "sh", "text"}


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_every_anchor_to_a_heading(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    dead = set()
    for target in targets:
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        if not linked.is_file() or (anchor and anchor not in _anchors(linked)):
            dead.add(target)
    assert dead == set()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md"}
    assert set(re.findall(r"^- \[([\w-]+\.md)\]\(", index, re.MULTILINE)) == pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_module_that_a_page_names_is_there(page: Path) -> None:
    written = {name for name, _ in RECIPES if not (ROOT / name).exists()} if page == CONTRIBUTING else set()
    named = set(re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|lua))", page.read_text("utf-8")))
    assert {name for name in named - written if not (ROOT / name).is_file()} == set()


def _defined(path: str) -> set[str]:
    """What a module defines: functions, classes, and methods as Class.method."""
    names = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return names


@pytest.mark.slow
def test_the_life_of_a_request_names_functions_that_are_there() -> None:
    life = ARCHITECTURE[ARCHITECTURE.index("## The life of a request") : ARCHITECTURE.index("```mermaid")]
    assert re.findall(r"^(\d+)\. ", life, re.MULTILINE) == [str(number) for number in range(1, 11)]
    named = re.findall(r"`([\w/.]+\.py): ([\w.]+)`", life)
    assert len(named) >= 20
    assert {(path, name) for path, name in named if name not in _defined(path)} == set()


def test_every_module_has_its_line() -> None:
    table = ARCHITECTURE[ARCHITECTURE.index("## Modules") : ARCHITECTURE.index("## Words")]
    listed = re.findall(r"^\| (?:\*\*)?`([\w/.]+)`(?:\*\*)? \| \S", table, re.MULTILINE)
    modules = [
        path
        for room in ("telemetry", "broker", "pictures", "web", "model_server", "clients")
        for path in (ROOT / room).rglob("*.py")
    ]
    names = [
        str(each.relative_to(ROOT)).replace("/__init__.py", "/")
        for each in modules
        if "__pycache__" not in each.parts and not each.stem.endswith("_pb2")
    ]
    assert sorted(listed) == sorted(names)


def test_the_page_on_the_web_s_worker_lists_what_it_overrides() -> None:
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "web/server/README.md").read_text("utf-8"), re.MULTILINE)
    overridden = {
        name for name in vars(PatientWorker) if hasattr(ThreadWorker, name) and not name.startswith("__")
    }
    assert sorted(table) == sorted(overridden)


def _halves(hunk: str) -> tuple[str, str]:
    """A diff's lines as they are, and as they will be."""
    lines = hunk.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    return before, "".join(line[1:] for line in lines if line[0] in " +")


def _apply(recipe: str, folder: Path) -> None:
    """Do what a recipe of CONTRIBUTING.md says in a copy of the project."""
    for name, kind, block in re.findall(_RECIPE_BLOCK, recipe, re.MULTILINE | re.DOTALL):
        path = folder / name
        if kind == "python":
            assert not path.exists()
            path.write_text(block, "utf-8")
            continue
        before, after = _halves(block)
        text = path.read_text("utf-8")
        assert text.count(before) == 1, f"{name} has not once: {before}"
        path.write_text(text.replace(before, after), "utf-8")


RECIPE_ROOMS = {
    "Recipe: add a route": ["tests/web/routes", "tests/web/openapi"],
    "Recipe: add a task": [
        "tests/model_server/tasks",
        "tests/model_server/catalogue",
        "tests/model_server/engines",
        "tests/web/routes",
    ],
}
"""What a recipe tells its reader to test."""

RECIPE_TESTS = {
    "Recipe: add a route": ["tests/web/routes/test_version.py", "tests/web/openapi"],
    "Recipe: add a task": [
        "tests/model_server/tasks",
        "tests/model_server/catalogue",
        "tests/model_server/engines/test_choice.py",
        "tests/model_server/engines/test_output_choice.py",
        "tests/web/routes/test_other_answers.py",
    ],
}
"""What is new of it, and what goes through the table that it extends: the rest is tested without it."""


def _copied(folder: Path) -> Path:
    # With its byte code, but for what another process writes just now: nobody has to compile it again.
    copy = folder / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "var", "*.pyc.*"))
    types = ROOT / ".mypy_cache"  # of `make lint`: with it mypy takes a second, without it a minute
    if types.is_dir():
        shutil.copytree(types, copy / types.name)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("title", RECIPE_TESTS)
def test_the_recipes_fit_the_code(title: str, tmp_path: Path) -> None:
    _apply(_recipe(title), _copied(tmp_path))


@pytest.mark.slow
def test_the_recipe_for_a_task_fits_after_another_task_was_added_by_it(tmp_path: Path) -> None:
    recipe, copy = _recipe("Recipe: add a task"), _copied(tmp_path)
    _apply(recipe.replace("open_set", "ordered").replace("OpenSet", "Ordered"), copy)
    _apply(recipe, copy)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_recipes_work(tmp_path: Path) -> None:
    """All in one copy, whose tests are collected once, and linted once."""
    copy = _copied(tmp_path)
    tests: list[str] = []
    for title, of_it in RECIPE_TESTS.items():
        _apply(_recipe(title), copy)
        rooms = RECIPE_ROOMS[title]
        assert " ".join(rooms) in re.sub(r"\s+", " ", _recipe(title))
        assert all(any(test.startswith(room) for room in rooms) for test in of_it)
        tests += of_it
    words = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    modules = "tests/test_docs.py::test_every_module_has_its_line"
    for command in (
        [*words, modules],
        [sys.executable, "-m", "ruff", "check", "."],
        [sys.executable, "-m", "ruff", "format", "--check", "."],
        [sys.executable, "-m", "mypy", "web", "model_server", *tests],
    ):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


_LABELS = "index,class_id,label\n" + "".join(f"{index},{index},class {index}\n" for index in range(5))


def test_the_model_toml_of_the_readme_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.toml").write_text(_blocks("toml")[0])
    (folder / "labels.csv").write_text(_LABELS)
    assert read_model(tmp_path, "mine").input.shape == (64, 64, 3)


def test_every_model_toml_of_the_page_on_models_is_taken(tmp_path: Path) -> None:
    kinds = []
    for number, block in enumerate([*_blocks("toml", MODELS), *_blocks("toml", TASKS_PAGE)]):
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
    named = set(re.findall(r"`\[?([a-z_]+)\]?`", table)) | {"source", "input", "output"}
    structs = (ModelToml, Input, Output, Normalisation, *get_args(Source))
    fields = {field for struct in structs for field in struct.__struct_fields__} - {"mean", "std"}
    assert fields - named <= {"file", "folder", "name", "cfg", "weights"}  # each kind's own, on the same page
    assert {f"`{each.__struct_config__.tag}`" for each in get_args(Source)} <= set(
        re.findall(r"^\| (`[a-z_]+`) \|", MODELS, re.MULTILINE)
    )


def test_every_task_is_on_the_page_on_models() -> None:
    table = MODELS[MODELS.index("### Tasks") : MODELS.index("### Labels")]
    assert re.findall(r'^\| `"(\w+)"` \| \S', table, re.MULTILINE) == [*TASKS, "pipeline"]


def test_every_task_has_its_line_and_its_fields_on_the_page_on_tasks() -> None:
    assert re.findall(r'^\| `"(\w+)"` \| \S', TASKS_PAGE, re.MULTILINE) == [*TASKS, "pipeline"]
    of_its_own = {name: task.table for name, task in TASKS.items() if task.table and name != "detection"}
    for name, table in of_its_own.items():
        blocks = "".join(each.split("```")[0] for each in TASKS_PAGE.split(f"\n[{name}]\n")[1:])
        assert set(table.__struct_fields__) <= set(re.findall(r"^(\w+) =", blocks, re.MULTILINE))


def test_every_make_target_that_a_page_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"^make ([a-z-]+)$", page.read_text("utf-8"), re.MULTILINE)
    }
    contributing = CONTRIBUTING.read_text("utf-8")
    named |= set(re.findall(r"`make ([a-z-]+)`", contributing))
    assert named <= targets
    assert targets - {"preflight", "help", "install", "format", "clean"} <= named


@pytest.fixture(scope="module")
def project() -> Iterator[Path]:
    """A copy of the project, with what the documents' commands need."""
    with copied_project() as folder:
        for part in ("docs", "clients", "loadtest", "stress_test.py", "README.md"):
            assert part not in PARTS
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, folder / part)
            else:
                shutil.copy(source, folder / part)
        (folder / ".venv").symlink_to(ROOT / ".venv")
        yield folder


@pytest.fixture(scope="module")
def serving(project: Path) -> Iterator[Serving]:
    """`make serve` there, as docs/tutorials.md says: one for the commands of all pages."""
    running = Serving(project, **SMALL, INFER_CORS_ORIGINS="*", FILES_DIR=str(project / "docs"))
    try:
        running.wait_ready()
        yield running
    finally:
        running.end()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_run_and_answer_as_the_documents_say(serving: Serving, project: Path) -> None:
    commands = [*_commands(README), *_commands(HTTP), *_commands(OPERATIONS)]
    assert [len(_commands(page)) for page in (README, HTTP, OPERATIONS)] == [3, 1, 2]
    assert len(_commands(LOAD_TESTING)) >= 4
    said = json.loads(_blocks("json")[0])
    for command in [*commands, *_commands(LOAD_TESTING)]:
        words = [word.replace("http://localhost:5000", serving.url) for word in shlex.split(command)]
        if words[0] != "curl":
            words[0] = str(ROOT / words[0])
        if "stress_test.py" in words:
            words += ["--url", serving.url]
            if "--duration" in words:
                words += ["--duration", "0.5", "--warmup", "0.2"]  # the last one counts
        if words[1:4] == ["-m", "model_server", "check"]:
            done = keras_fork.run(words[1:], cwd=project)
        else:
            done = subprocess.run(
                words, cwd=project, capture_output=True, text=True, timeout=120, check=False
            )
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


def test_every_block_of_the_page_on_tutorials_is_of_a_kind_that_is_run() -> None:
    assert set(re.findall(r"^```(\w+)$", TUTORIALS, re.MULTILINE)) == {"sh", "python", "text"}
    assert len(told("sh", TUTORIALS)) == len(_blocks("sh", TUTORIALS)) == 12
    assert len(told("python", TUTORIALS)) == len(_blocks("python", TUTORIALS)) == 1


def _rounded(text: str) -> str:
    """With three digits of each share: the rest differs from processor to processor."""
    return re.sub(r"\d\.\d+(e-\d+)?", lambda share: f"{float(share[0]):.3f}", text)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_commands_of_the_tutorials_print_what_their_page_says(serving: Serving, project: Path) -> None:
    for program in ("nginx", "ab"):
        if shutil.which(program) is None:
            pytest.skip(
                f"NOT RUN: {program} is not installed (Debian: apt install nginx-light apache2-utils)"
            )
    ports = {"5000": str(serving.port)} | {str(port): str(free_port()) for port in (5555, 5556, 5557)}

    def moved(text: str) -> str:
        return re.sub(r"\b(5000|5555|5556|5557)\b", lambda port: ports[port[1]], text)

    for config in (project / "deploy" / "nginx").glob("*.conf"):
        config.write_text(moved(config.read_text("utf-8")), "utf-8")
    pids = [project / "var" / "gunicorn.pid", project / "var" / "nginx" / "nginx.pid"]
    try:
        for block, printed in told("sh", TUTORIALS):
            words = ["bash", "-euo", "pipefail", "-c", moved(block)]
            done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=90, check=False)
            assert done.returncode == 0, block + done.stdout + done.stderr
            assert _rounded(done.stdout) == _rounded(printed), block + done.stderr
        eventually(lambda: not any(path.exists() for path in pids))  # the last block ended them
    finally:
        for path in pids:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(path.read_text()), signal.SIGTERM)


@pytest.mark.slow
def test_the_weights_of_paddle_0_11_are_read_as_the_page_says(tmp_path: Path) -> None:
    """From an archive as its Parameters.to_tar writes it."""
    with tarfile.open(tmp_path / "param.tar", "w") as archive:
        for name, count in (("___conv_0__.w0", 500), ("___conv_0__.wbias", 20)):
            content = struct.pack("<IIQ", 0, 4, count) + bytes(4 * count)
            for each, held in ((name, content), (f"{name}.protobuf", b"\x0a")):
                member = tarfile.TarInfo(each)
                member.size = len(held)
                archive.addfile(member, io.BytesIO(held))
    ((block, printed),) = told("python", TUTORIALS)
    words = [sys.executable, "-c", block]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == printed, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_of_the_page_on_protocols_print_what_it_says(serving: Serving, project: Path) -> None:
    blocks = told("sh", PROTOCOLS)
    assert len(blocks) == len(_blocks("sh", PROTOCOLS)) == 2
    for block, printed in blocks:
        words = ["bash", "-euo", "pipefail", "-c", block.replace("http://localhost:5000", serving.url)]
        done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, block + done.stderr
        assert _rounded(done.stdout) == _rounded(printed), done.stdout


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_clients_print_what_their_page_says(serving: Serving, project: Path) -> None:
    """Python by this one, JavaScript by Playwright's Node; that of a page is run by tests/browser."""
    node = compute_driver_executable()[0]
    command, curl = _blocks("sh", CLIENTS)
    assert told("sh", CLIENTS)[0][0] == command
    ways = [
        ("python", [sys.executable, "-W", "ignore::ResourceWarning", "-c"], told("python", CLIENTS), 5),
        ("mjs", [node, "--input-type=module", "-e"], told("mjs", CLIENTS), 1),
        ("sh", ["bash", "-euc"], [*told("sh", CLIENTS), (curl, "")], 2),
    ]
    for kind, way, blocks, count in ways:
        assert len(blocks) == len(_blocks(kind, CLIENTS)) == count
        for block, printed in blocks:
            text = block.replace("http://localhost:5000", serving.url)
            words = [*way, text.replace("-m clients", f"-m clients --url {serving.url}")]
            done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            if block == curl:
                answers = [json.loads(line) for line in done.stdout.splitlines()]
                assert [each["predictions"][0]["label"] for each in answers] == ["7"] * 3
            else:
                assert done.stdout == printed
