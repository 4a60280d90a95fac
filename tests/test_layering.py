"""The import rules: they point one way. Reads every import of the product, and fails on a breach."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "broker": {
        "web",
        "model_server",
        "settings",
        "deploy",
        "training",
        "loadtest",
        "flask",
        "PIL",
        "keras",
        "tensorflow",
    },
    "web": {"model_server", "redis", "keras", "tensorflow", "deploy", "training", "loadtest"},
    "model_server": {"web", "redis", "flask", "PIL", "gunicorn", "deploy", "training", "loadtest"},
    "deploy": {"web", "model_server", "redis", "flask", "keras", "tensorflow", "loadtest"},
    "loadtest": {
        "broker",
        "web",
        "model_server",
        "settings",
        "deploy",
        "training",
        "redis",
        "flask",
        "keras",
    },
}
SETTINGS_READERS = {
    "web/wsgi.py",
    "web/app.py",
    "web/gunicorn.conf.py",
    "model_server/__main__.py",
    "model_server/commands/dead_letters.py",
    "model_server/commands/quantise.py",
    "model_server/commands/check.py",
    "deploy/serve/__main__.py",
    "deploy/serve/programs.py",
}


OFFLINE = {
    "model_server/commands/picture_folder.py imports web",
    "model_server/commands/check.py imports web",
}
"""What an offline command, never a serving process, uses of the other side."""
RUNTIMES = {
    "nncf": {"quantise.py"},
    "keras": {
        "sources.py",
        "darknet/keras_model.py",
        "darknet/detections.py",
        "engines/keras_network.py",
        "engines/jax.py",
    },
    "tensorflow": {"engines/tensorflow.py"},
    "jax": {"engines/jax.py"},
    "openvino": {"engines/openvino_runtime.py"},
}
"""What may import each runtime: one file of model_server, and Keras what builds and runs its networks."""


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            names.add(node.module or "")
    return names


def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str) -> None:
    files = _files(package)
    assert files
    breaches = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    }
    assert breaches == (OFFLINE if package == "model_server" else set())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_has_one_place(runtime: str) -> None:
    importers = {
        str(path.relative_to(ROOT / "model_server"))
        for path in _files("model_server")
        if runtime in {name.split(".")[0] for name in _imports(path)}
    }
    assert importers == RUNTIMES[runtime]


def test_only_entry_points_read_settings() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if "settings" in _imports(path)
    }
    assert readers == SETTINGS_READERS


def test_only_settings_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if re.search(r"os\.environ|getenv", path.read_text("utf-8"))
    }
    # They write what Keras and TensorFlow read at import; nothing of ours is read there.
    assert readers == {"model_server/engines/keras/tensorflow.py", "model_server/engines/keras/jax.py"}


def test_stress_test_starts_the_load_tester_and_nothing_else() -> None:
    assert _imports(ROOT / "stress_test.py") == {"sys", "loadtest.cli.main"}


def test_keys_are_spelled_only_in_keys_py() -> None:
    spelled = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if '"bw:' in path.read_text("utf-8") or '}:"' in path.read_text("utf-8")
    }
    assert spelled == set()


@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("web.app", ("keras", "tensorflow", "openvino", "model_server")),
        ("model_server.__main__", ("flask", "PIL", "web", "tensorflow", "keras")),
        ("model_server.engines.openvino", ("flask", "PIL", "web", "tensorflow", "keras")),
        ("model_server.commands.dead_letters", ("flask", "PIL", "web", "tensorflow", "keras")),
    ],
)
def test_what_a_process_really_loads(module: str, never: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*sorted(name.split('.')[0] for name in sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(never) & set(loaded.stdout.split()) == set()


def test_every_module_says_what_it_owns() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for package in [*FORBIDDEN, "training"]
        for path in _files(package)
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_every_script_names_its_keys_its_arguments_and_its_reply() -> None:
    scripts = sorted((ROOT / "broker" / "lua").glob("*.lua"))
    assert [script.stem for script in scripts] == ["claim", "complete", "lease", "others", "recover"]
    for script in scripts:
        text = script.read_text("utf-8")
        assert all(word in text for word in ("-- KEYS", "-- ARGV", "-- Returns")), script.name
        assert len(text.splitlines()) <= 40, script.name


def test_no_function_has_more_than_fifty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for package in [*FORBIDDEN, "training"]
        for path in _files(package)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 50
    ]
    assert long == []
