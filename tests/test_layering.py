"""The import rules: they point one way. Reads every import of the product, and fails on a breach."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Set
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORBIDDEN = {
    "telemetry": {
        "broker",
        "web",
        "pictures",
        "model_server",
        "settings",
        "deploy",
        "training",
        "loadtest",
        "clients",
        "redis",
        "flask",
        "gunicorn",
        "PIL",
        "keras",
        "tensorflow",
    },
    "broker": {
        "web",
        "pictures",
        "model_server",
        "settings",
        "deploy",
        "training",
        "loadtest",
        "clients",
        "flask",
        "PIL",
        "keras",
        "tensorflow",
    },
    "pictures": {
        "web",
        "model_server",
        "settings",
        "deploy",
        "training",
        "loadtest",
        "clients",
        "redis",
        "flask",
        "keras",
        "tensorflow",
    },
    "web": {"model_server", "redis", "keras", "tensorflow", "deploy", "training", "loadtest", "clients"},
    "model_server": {"web", "redis", "flask", "PIL", "gunicorn", "deploy", "training", "loadtest", "clients"},
    "deploy": {"web", "model_server", "redis", "flask", "keras", "tensorflow", "loadtest", "clients"},
    "loadtest": {
        "broker",
        "clients",
        "web",
        "model_server",
        "settings",
        "deploy",
        "training",
        "redis",
        "flask",
        "keras",
    },
    "clients": {
        "broker",
        "pictures",
        "web",
        "model_server",
        "settings",
        "deploy",
        "training",
        "loadtest",
        "redis",
        "flask",
        "keras",
    },
}
SETTINGS_READERS = {
    "web/wsgi.py",
    "web/app.py",
    "web/start.py",
    "web/keys/command.py",
    "web/rpc/__main__.py",
    "web/rpc/server.py",
    "web/gunicorn.conf.py",
    "model_server/commands/serve.py",
    "model_server/commands/dead_letters.py",
    "model_server/commands/quantise.py",
    "model_server/commands/check.py",
    "model_server/commands/new.py",
    "deploy/serve/__main__.py",
    "deploy/serve/preflight.py",
    "deploy/serve/programs.py",
    "deploy/serve/rewriting.py",
}


ROOMS: dict[str, set[str]] = {
    "pictures": {"broker.errors", "broker.messages", "pictures"},
    "web/server": {"broker.errors", "telemetry.logs", "web.server"},
    "web/uploads": {
        "broker",
        "pictures.decode",
        "telemetry.tracing",
        "web.errors",
        "web.responses",
        "web.server.refusals",
        "web.uploads",
    },
    "web/dialects": {
        "broker.errors",
        "broker.messages",
        "broker.registry",
        "pictures.png",
        "web.answers",
        "web.dialects",
        "web.errors",
        "web.jobs",
        "web.keys.access",
        "web.pipelines",
        "web.responses",
        "web.routes.pages",
        "web.routes.predict",
        "web.server.refusals",
        "web.uploads",
    },
    "web/rpc": {
        "broker.errors",
        "broker.messages",
        "broker.metrics",
        "settings",
        "telemetry",
        "web.access_log",
        "web.dialects",
        "web.errors",
        "web.inference",
        "web.jobs",
        "web.keys",
        "web.metrics",
        "web.middleware.request_ids",
        "web.polled_pipelines",
        "web.question",
        "web.rpc",
        "web.server.capacity",
        "web.server.malloc",
        "web.server.refusals",
        "web.start",
        "web.uploads",
    },
    "web/keys": {
        "broker",
        "settings",
        "web.errors",
        "web.keys",
        "web.metrics",
        "web.server.refusals",
    },
    "web/webhooks": {
        "broker",
        "telemetry",
        "web.answers",
        "web.metrics",
        "web.middleware.request_ids",
        "web.responses",
        "web.uploads.parameters",
        "web.webhooks",
    },
    "web/middleware": {
        "broker.errors",
        "telemetry",
        "web.access_log",
        "web.metrics",
        "web.middleware",
        "web.question",
        "web.responses",
    },
    "model_server/catalogue": {"broker", "model_server.catalogue", "model_server.tasks"},
    "model_server/tasks": {
        "broker",
        "model_server.catalogue",
        "model_server.engines.check",
        "model_server.engines.engine",
        "model_server.tasks",
        "pictures.geometry",
        "pictures.rle",
    },
    "model_server/hooks": {"broker.errors", "model_server.catalogue", "model_server.hooks"},
    "model_server/stores": {"broker.errors", "model_server.catalogue", "model_server.stores"},
    "model_server/darknet": {"broker", "model_server.darknet"},
    "clients": {"clients"},
}
"""What of the project each room may import; a package's name stands for all that is in it."""

WITH_PILLOW = {
    "model_server/commands/check.py",
    "model_server/commands/golden.py",
    "model_server/commands/picture_folder.py",
}
"""Offline commands, which may decode pictures; of pictures/ a serving process has these alone:"""
WITHOUT_PILLOW = {"pictures.fixed_point", "pictures.geometry", "pictures.refit", "pictures.rle"}

RUNTIMES = {
    "nncf": {"commands/int8_network.py"},
    "keras": {
        "engines/keras/sources.py",
        "darknet/keras_model.py",
        "darknet/detections.py",
        "engines/keras/keras2_files.py",
        "engines/keras/network.py",
        "engines/keras/jax.py",
    },
    "tensorflow": {"engines/keras/tensorflow.py"},
    "jax": {"engines/keras/jax.py"},
    "openvino": {"engines/openvino/runtime.py"},
    "torch": {"engines/torch/engine.py", "engines/torch/network.py", "engines/torch/sources.py"},
    "torchvision": {"engines/torch/sources.py"},
    "timm": {"engines/torch/sources.py"},
    "safetensors": {"engines/torch/sources.py"},
    "onnxruntime": {"engines/onnxruntime/runtime.py"},
}
"""What may import each runtime: one file of model_server, and Keras what builds and runs its networks."""


@functools.cache
def _text(path: Path) -> str:
    return path.read_text("utf-8")


class _Source:
    """What the rules ask of a file, read and parsed once for all of them."""

    def __init__(self, path: Path) -> None:
        tree = ast.parse(_text(path))
        self.docstring = ast.get_docstring(tree)
        self.relative = False
        self.imports: set[str] = set()
        self.imported: set[str] = set()
        """As `imports`, with the name that is imported: package.module of `from package import module`."""
        self.for_types: set[str] = set()
        """Those of `imported` that only a type checker follows."""
        self.public_classes: list[str] = []
        self.functions: dict[str, int] = {}
        """The lines of the longest function of a name."""
        for node in ast.walk(tree):
            self._add(node)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                names = [each for each in node.body if isinstance(each, ast.ImportFrom)]
                self.for_types |= {f"{each.module}.{alias.name}" for each in names for alias in each.names}

    def _add(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            self.imports |= {alias.name for alias in node.names}
            self.imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            self.relative |= node.level > 0
            self.imports.add(node.module or "")
            self.imported |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ClassDef):
            self.public_classes += [] if node.name.startswith("_") else [node.name]
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            self.functions[node.name] = max(lines, self.functions.get(node.name, 0))


@functools.cache
def _source(path: Path) -> _Source:
    return _Source(path)


def _imports(path: Path) -> set[str]:
    assert not _source(path).relative, f"{path}: relative imports hide the direction"
    return _source(path).imports


@functools.cache
def _files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.slow
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
    assert breaches == set()


def _project_imports(path: Path, *, but: Set[str] = frozenset()) -> set[str]:
    """Modules of the project that a file imports, `from package import module` as package.module."""
    ours = {*FORBIDDEN, "settings", "training"}
    names = {name for name in _source(path).imported - but if name.split(".")[0] in ours}
    return {name if _is_module(name) else name.rpartition(".")[0] for name in names}


@functools.cache
def _is_module(name: str) -> bool:
    place = ROOT / name.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").is_file()


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_imports_only_what_it_may(room: str) -> None:
    files = _files(room)
    assert files
    breaches = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in _project_imports(path)
        if not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ROOMS[room])
    }
    assert breaches == set()


@pytest.mark.slow
def test_no_module_needs_itself() -> None:
    """Nor one that a function imports: then neither of the two can be read without the other."""
    graph = {}
    for path in [path for package in FORBIDDEN for path in _files(package)]:
        place = path.relative_to(ROOT).with_suffix("")
        name = ".".join(place.parent.parts if place.name == "__init__" else place.parts)
        graph[name] = _project_imports(path, but=_source(path).for_types) - {name}
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.slow
def test_opentelemetry_has_one_place() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if "opentelemetry" in {name.split(".")[0] for name in _imports(path)}
    }
    assert importers == {"telemetry/otlp.py"}


def test_dialects_are_registered_and_described_and_nothing_else_needs_them() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in _files("web")
        if {name for name in _project_imports(path) if name.startswith("web.dialects")}
    }
    assert {name for name in importers if not name.startswith(("web/dialects/", "web/rpc/"))} == {
        "web/app.py",
        "web/openapi/operations.py",
    }


@pytest.mark.slow
def test_each_door_has_its_own_transport() -> None:
    transports = {"flask", "gunicorn", "werkzeug", "grpc", "grpc_health"}
    importers = {
        (str(path.relative_to(ROOT)).startswith("web/rpc/"), name.split(".")[0])
        for path in _files("web")
        for name in _imports(path)
        if name.split(".")[0] in transports
    }
    assert importers == {
        *((False, name) for name in ("flask", "gunicorn", "werkzeug")),
        *((True, name) for name in ("grpc", "grpc_health")),
    }


def test_pillow_is_imported_by_pictures_alone_and_by_what_makes_pictures() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if "PIL" in {name.split(".")[0] for name in _imports(path)}
    }
    assert {name for name in importers if not name.startswith(("pictures/", "loadtest/"))} == set()


def test_of_pictures_a_serving_process_imports_what_needs_no_pillow() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in _files("model_server")
        if {name for name in _project_imports(path) if name.startswith("pictures")} - WITHOUT_PILLOW
    }
    assert importers == WITH_PILLOW


@pytest.mark.slow
def test_only_a_task_s_own_file_asks_which_task_it_is() -> None:
    # Elsewhere a question that depends on the task is one of task.py's, so that a new task answers it too.
    asked = re.compile(
        r"""\btask(\.name)?["']?\]? *(==|!=|===|!==|(not )?in) *["'({\[]|detection is (not )?None"""
    )
    places = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for package in [*FORBIDDEN, "training"]
        for suffix in ("py", "js", "html")
        for path in (ROOT / package).rglob(f"*.{suffix}")
        if path.parent != ROOT / "model_server" / "tasks"
        for line in _text(path).splitlines()
        if asked.search(line)
    }
    assert places == set()


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_runtime_has_one_place(runtime: str) -> None:
    importers = {
        str(path.relative_to(ROOT / "model_server"))
        for path in _files("model_server")
        if runtime in {name.split(".")[0] for name in _imports(path)}
    }
    assert importers == RUNTIMES[runtime]


@pytest.mark.slow
def test_only_entry_points_read_settings() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if "settings" in _imports(path)
    }
    assert readers == SETTINGS_READERS


def test_settings_and_the_look_run_on_python_alone() -> None:
    imported = _imports(ROOT / "settings.py") | _imports(ROOT / "deploy" / "serve" / "preflight.py")
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"settings"}


def test_only_settings_reads_the_environment() -> None:
    readers = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if re.search(r"os\.environ|getenv", _text(path))
    }
    # They write what Keras, TensorFlow, PyTorch and prometheus_client read; nothing of ours is read there.
    assert readers == {
        "model_server/engines/keras/tensorflow.py",
        "model_server/engines/keras/jax.py",
        "model_server/engines/torch/network.py",
        "model_server/engines/torch/sources.py",
        "web/metrics_folder.py",
        # API keys, of programs that know no settings.
        "clients/client.py",
        "loadtest/cli/target_options.py",
    }


def test_stress_test_starts_the_load_tester_and_nothing_else() -> None:
    assert _imports(ROOT / "stress_test.py") == {"sys", "loadtest.cli.main"}


def test_keys_are_spelled_only_in_keys_py() -> None:
    spelled = {
        str(path.relative_to(ROOT))
        for package in FORBIDDEN
        for path in _files(package)
        if '"bw:' in _text(path) or '}:"' in _text(path)
    }
    assert spelled == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "never"),
    [
        ("web.app", ("keras", "tensorflow", "openvino", "model_server", "grpc")),
        ("web.rpc.server", ("keras", "tensorflow", "openvino", "model_server", "gunicorn")),
        (
            "model_server.commands.serve",
            ("flask", "PIL", "web", "tensorflow", "keras", "torch", "onnxruntime", "fsspec"),
        ),
        ("model_server.engines.openvino.engine", ("flask", "PIL", "web", "tensorflow", "keras", "torch")),
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
        if not _source(path).docstring
    ]
    assert silent == []


def test_every_script_names_its_keys_its_arguments_and_its_reply() -> None:
    scripts = sorted((ROOT / "broker" / "lua").glob("*.lua"))
    names = ["announce", "claim", "complete", "finish", "heads", "home", "keep", "key_return", "key_take"]
    names += ["lanes", "lease", "lengths", "missing", "others", "owners", "recover", "remove", "take", "time"]
    names += ["webhook_due", "webhook_expire", "webhook_settle", "webhook_take"]
    assert [script.stem for script in scripts] == names
    for script in scripts:
        text = script.read_text("utf-8")
        assert all(word in text for word in ("-- KEYS", "-- ARGV", "-- Returns")), script.name
        assert len(text.splitlines()) <= 40, script.name


def test_nothing_imports_a_conftest() -> None:
    # pytest loads conftests by folder; what tests share beyond fixtures is in tests/support/.
    importers = {
        str(path.relative_to(ROOT))
        for path in _files("tests")
        if re.search(r"^\s*(from|import) .*\bconftest\b", _text(path), re.MULTILINE)
    }
    assert importers == set()


@pytest.mark.slow
def test_nothing_looks_beside_the_repository() -> None:
    # Data that is not in it is in the folder that TEST_DATA names: tests/README.md.
    beside = {
        str(path.relative_to(ROOT))
        for package in [*FORBIDDEN, "training", "benchmarks", "tests"]
        for path in _files(package)
        if re.search(r"\b(ROOT|PROJECT)\.parent|\.\./shared\b", _text(path))
    }
    assert beside == set()


@pytest.mark.slow
def test_programs_within_strings_import_what_there_is() -> None:
    # Tests run such programs in processes of their own; no type checker reads them.
    packages = "|".join([*FORBIDDEN, "training", "tests"])
    stale = {
        f"{path.relative_to(ROOT)}: {module}.{name.strip()}"
        for path in _files("tests")
        for module, names in re.findall(rf"from ((?:{packages})[.\w]*) import ([\w, ]+)", _text(path))
        for name in names.split(",")
        if name.strip() and not _is_there(module, name.split(" as ")[0].strip())
    }
    assert stale == set()


def _is_there(module: str, name: str) -> bool:
    place = ROOT / module.replace(".", "/")
    source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
    defines = source.is_file() and re.search(rf"\b{name}\b", _text(source))
    return bool(defines) or (place / name).with_suffix(".py").is_file() or (place / name).is_dir()


@pytest.mark.slow
def test_each_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    # A peer is a program of its own, on somebody else's server; a client has the service's own nouns.
    skipped = {
        *_files("benchmarks/serving/peers"),
        *(ROOT / "clients" / name for name in ("answers.py", "client.py")),
    }
    for package in [*FORBIDDEN, "training", "benchmarks"]:
        for path in _files(package):
            if path not in skipped:
                for name in _source(path).public_classes:
                    places.setdefault(name, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_function_has_more_than_fifty_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name}"
        for package in [*FORBIDDEN, "training"]
        for path in _files(package)
        for name, lines in _source(path).functions.items()
        if lines > 50
    ]
    assert long == []


@pytest.mark.parametrize("suite", ["browser", "compose", "importers", "network", "protocols"])
def test_the_tests_of_a_suite_are_in_its_folder(suite: str) -> None:
    """`make test-browser` and the like look for them nowhere else."""
    marked = {
        path.relative_to(ROOT / "tests").parts[0]
        for path in _files("tests")
        if f"pytest.mark.{suite}" in _text(path)
    }
    assert marked == {suite}
