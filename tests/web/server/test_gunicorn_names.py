"""What web.server and gunicorn.conf.py rely on in Gunicorn is there: an upgrade can't break it unseen."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.config import KNOWN_SETTINGS
from gunicorn.http.wsgi import Response
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import TConn, ThreadWorker

from tests.support import ROOT
from web.server.connection import Connection
from web.server.worker import PatientWorker

SERVER = sorted((ROOT / "web" / "server").glob("*.py"))
CONFIG = ROOT / "web" / "gunicorn.conf.py"
BASES: dict[type, type] = {PatientWorker: ThreadWorker, Connection: TConn}
OVERRIDDEN: dict[type, set[str]] = {
    PatientWorker: {
        "__init__",
        "run",
        "accept",
        "set_accept_enabled",
        "handle",
        "finish_request",
        "wait_for_and_dispatch_events",
        "murder_keepalived",
        "murder_pending",
        "is_parent_alive",
        "_cap_keepalive",
    },
    Connection: {"__init__"},
}


def _imports() -> Iterator[tuple[str, str]]:
    for path in [*SERVER, CONFIG]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gunicorn"):
                yield from ((node.module or "", alias.name) for alias in node.names)


def _own(class_: type) -> ast.ClassDef:
    tree = ast.parse(Path(inspect.getfile(class_)).read_text("utf-8"))
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_.__name__)


def test_every_name_that_is_imported_is_there() -> None:
    names = list(_imports())
    assert len(names) >= 5
    assert [name for name in names if not hasattr(importlib.import_module(name[0]), name[1])] == []


@pytest.mark.parametrize("class_", BASES)
def test_every_method_that_is_overridden_is_gunicorn_s_with_the_same_parameters(class_: type) -> None:
    own = {node.name for node in _own(class_).body if isinstance(node, ast.FunctionDef)}
    base = BASES[class_]
    assert {name for name in own if name in dir(base)} == OVERRIDDEN[class_]
    for name in OVERRIDDEN[class_] - {"__init__"}:
        theirs, ours = (inspect.signature(getattr(each, name)).parameters for each in (base, class_))
        assert len(ours) == len(theirs), f"{class_.__name__}.{name}: {list(theirs)} became {list(ours)}"


def _attributes_of(name: str, tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }


@pytest.mark.slow
@pytest.mark.parametrize("class_", BASES)
def test_every_attribute_that_is_gunicorn_s_is_there(class_: type) -> None:
    own = _own(class_)
    used = _attributes_of("self", own)
    if class_ is Connection:
        for path in SERVER:
            used |= _attributes_of("conn", ast.parse(path.read_text("utf-8")))
    set_here = {
        node.attr
        for node in ast.walk(own)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    } - {"timeout", "alive", "nr_conns", "wsgi"}  # written here, and read by Gunicorn
    declared = {
        target.id
        for node in own.body
        for target in ([node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", []))
        if isinstance(target, ast.Name)
    }
    methods = {node.name for node in own.body if isinstance(node, ast.FunctionDef)}
    of_gunicorn = used - set_here - (declared - {"timeout"}) - (methods - OVERRIDDEN[class_])
    assert of_gunicorn
    source = "".join(inspect.getsource(each) for each in {ThreadWorker, Worker, TConn})
    missing = {name for name in of_gunicorn if not re.search(rf"\b(?:self\.|conn\.|def ){name}\b", source)}
    assert missing == set()


def test_what_names_keep_alive_is_gunicorn_s() -> None:
    assert "resp.start_response" in inspect.getsource(ThreadWorker.handle_request)
    assert callable(Response.should_close)
    assert "in self.headers" in inspect.getsource(Response.send_headers)


def test_every_setting_of_the_configuration_is_gunicorn_s() -> None:
    tree = ast.parse(CONFIG.read_text("utf-8"))
    names = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    } | {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert "worker_class" in names
    assert names - {setting.name for setting in KNOWN_SETTINGS} == set()


@pytest.mark.slow
def test_a_certificate_is_refused_before_anything_listens(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("")
    command = [sys.executable, "-m", "gunicorn", "-c", str(CONFIG)]
    environment = {**os.environ, "REDIS_URL": "redis://127.0.0.1:9/0", "PORT": "1"}
    refused = subprocess.run(
        [*command, f"--certfile={tmp_path}/cert.pem", f"--keyfile={tmp_path}/key.pem"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 1
    assert "does not serve TLS" in refused.stderr
    assert "Listening" not in refused.stderr
