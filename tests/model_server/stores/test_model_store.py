"""A store that is followed: first copies, changes, outages, and processes that share the copies."""

import gc
import logging
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from model_server.catalogue.model_spec import CatalogueError
from model_server.stores import model_store
from model_server.stores.model_store import ModelStore, StoreOptions
from tests.e2e.told_server import write
from tests.support import ROOT, http_server
from tests.support.archive_server import ArchiveServer, zipped
from tests.support.waiting import eventually

MODEL = "told"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What is in the archive."""
    write(tmp_path / "packed" / MODEL)
    return tmp_path / "packed"


@pytest.fixture
def server(folder: Path) -> Iterator[ArchiveServer]:
    with http_server.running(ArchiveServer(zipped(folder))) as running:
        yield running
        running.goes_on.set()


Follow = Callable[..., ModelStore]


@pytest.fixture
def follow(server: ArchiveServer, tmp_path: Path) -> Iterator[Follow]:
    """Start to follow the server's archive, with one folder of copies for all."""
    with ExitStack() as ends:

        def start(url: str = "", most_mb: int = 1) -> ModelStore:
            options = StoreOptions(url or server.url, tmp_path / "cache", 0.1, most_mb)
            store = ModelStore(options, [MODEL])
            ends.callback(store.stop)
            store.start()
            return store

        yield start


def _has(store: ModelStore) -> bool:
    return store.link(MODEL).is_dir()


def _versions(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("cache/stores/*/versions/*"))


@pytest.mark.slow
def test_a_model_is_brought_here_and_a_change_is_taken_up(
    follow: Follow, server: ArchiveServer, folder: Path, tmp_path: Path
) -> None:
    store = follow()
    eventually(lambda: _has(store))
    old = store.read(MODEL, {})
    assert old.card().model == MODEL
    assert (old.folder / "network.json").read_text() == '{"mark": 0}'
    write(folder / MODEL, mark=5)
    server.content = zipped(folder)
    before = old.folder
    eventually(lambda: store.link(MODEL).resolve() != before.resolve())
    new = store.read(MODEL, {})
    assert (new.folder / "network.json").read_text() == '{"mark": 5}'
    assert new.version != old.version
    asked = len(server.asked)
    eventually(lambda: len(server.asked) > asked + 3)
    assert (old.folder / "network.json").is_file()  # it is in use
    assert server.wholes == 2  # what has not changed is not downloaded
    del old
    gc.collect()
    eventually(lambda: len(_versions(tmp_path)) == 1)


def test_an_outage_is_told_once_and_changes_nothing(
    follow: Follow, server: ArchiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = follow(server.url.replace("127.0.0.1", "someone:hunter2@127.0.0.1") + "?signature=abc")
    eventually(lambda: _has(store))
    for status, words in ((503, "can't be reached"), (403, "refuses access")):
        caplog.clear()
        asked, server.status = len(server.asked), status
        eventually(lambda asked=asked: len(server.asked) > asked + 4)  # type: ignore[misc]
        server.status = 200
        eventually(lambda: "gives it again" in caplog.text)
        assert caplog.text.count(words) == 1
        assert "The version that is here serves on." in caplog.text
        assert "hunter2" not in caplog.text
        assert "signature" not in caplog.text
    assert store.read(MODEL, {}).name == MODEL
    assert server.asked[-1] == ("/models.zip?signature=abc", "Basic c29tZW9uZTpodW50ZXIy")


def test_without_a_copy_the_reason_is_told_and_has_no_address(follow: Follow, server: ArchiveServer) -> None:
    server.status = 401
    store = follow()
    eventually(store.is_ready)
    told: dict[str, str] = {}
    store.tell(lambda model, reason: told.update({model: reason}))
    assert told[MODEL] == (
        "told: the model store refuses access: its credentials are missing, wrong or expired. "
        "It is tried again."
    )
    with pytest.raises(CatalogueError, match="refuses access"):
        store.read(MODEL, {})
    server.status = 200
    eventually(lambda: _has(store))


def test_a_model_without_a_copy_is_looked_for_more_often(
    server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_store, "_RETRY_S", 0.1)
    server.status = 503
    store = ModelStore(StoreOptions(server.url, tmp_path / "cache", look_s=600, most_mb=1), [MODEL])
    store.start()
    try:
        eventually(store.is_ready)
        server.status = 200
        eventually(lambda: _has(store))
    finally:
        store.stop()


def test_it_is_ready_once_every_model_has_a_version(server: ArchiveServer, tmp_path: Path) -> None:
    options = StoreOptions(server.url, tmp_path / "cache", look_s=600, most_mb=1)
    store = ModelStore(options, [MODEL, "other"])  # not started: nothing was looked at
    store.link(MODEL).mkdir()
    assert not store.is_ready()
    store.link("other").mkdir()
    assert store.is_ready()


def test_with_a_copy_a_start_needs_no_store(follow: Follow, server: ArchiveServer) -> None:
    first = follow()
    eventually(lambda: _has(first))
    server.status = 503
    assert follow().is_ready()
    assert follow().read(MODEL, {}).name == MODEL


def test_a_folder_that_can_t_be_read_is_refused_in_words_of_the_store(
    follow: Follow, server: ArchiveServer, folder: Path
) -> None:
    (folder / MODEL / "model.toml").write_text("task = 3")
    server.content = zipped(folder)
    store = follow()
    eventually(lambda: _has(store))
    with pytest.raises(CatalogueError, match=r"^models/told/model\.toml, line 1"):
        store.read(MODEL, {})


@pytest.mark.parametrize("cause", ["cut off", "redirected", "too large", "not a model"])
def test_what_did_not_come_whole_or_may_not_come_is_not_served(
    cause: str, follow: Follow, server: ArchiveServer, folder: Path, tmp_path: Path
) -> None:
    match cause:
        case "cut off":
            server.cuts_off = True
        case "redirected":
            server.status, server.location = 302, "http://example.org/models.zip"
        case "too large":
            server.content = bytes(2**20 + 1)
        case "not a model":
            (folder / MODEL / "model.toml").unlink()
            server.content = zipped(folder)
    store = follow()
    eventually(store.is_ready)
    words = {
        "cut off": "ended early",
        "redirected": "not https",
        "too large": "larger than 1 MB",
        "not a model": "no told/model.toml",
    }
    assert words[cause] in store.reason(MODEL)
    assert _versions(tmp_path) == []


def test_a_login_goes_to_its_own_server_alone(follow: Follow, server: ArchiveServer, folder: Path) -> None:
    with http_server.running(ArchiveServer(zipped(folder))) as other:
        server.status, server.location = 302, other.url
        store = follow(server.url.replace("//", "//ann:secret@"))
        eventually(lambda: _has(store))
        store.stop()
        assert {login for _, login in server.asked} == {"Basic YW5uOnNlY3JldA=="}
        assert {login for _, login in other.asked} == {""}


@pytest.mark.slow
def test_https_is_verified(
    follow: Follow, server: ArchiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*command, "-keyout", "key", "-out", "cert"], cwd=tmp_path, check=True, capture_output=True
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}/models.zip"
    store = follow(url)
    eventually(store.is_ready)
    assert "can't be reached" in store.reason(MODEL)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert"))
    eventually(lambda: _has(store))


def test_two_that_share_the_copies_download_once(
    follow: Follow, server: ArchiveServer, tmp_path: Path
) -> None:
    server.goes_on.clear()
    stores = [follow(), follow()]
    eventually(lambda: len(server.asked) == 3)  # both have looked, and one downloads
    server.goes_on.set()
    for store in stores:
        eventually(lambda store=store: _has(store) and store._looked.is_set())  # type: ignore[misc]
    assert len(_versions(tmp_path)) == 1
    assert server.wholes == 1


_CHILD = """
import sys, threading
from pathlib import Path
from model_server.stores.model_store import ModelStore, StoreOptions
ModelStore(StoreOptions(sys.argv[1], Path(sys.argv[2]), 1, 1), ["told"]).start()
threading.Event().wait()
"""


@pytest.mark.slow
def test_half_a_download_of_a_killed_process_is_never_served(
    follow: Follow, server: ArchiveServer, tmp_path: Path
) -> None:
    server.goes_on.clear()
    child = subprocess.Popen([sys.executable, "-c", _CHILD, server.url, str(tmp_path / "cache")], cwd=ROOT)
    try:
        eventually(lambda: server.halves == 1, within_s=60)
        assert len(list(tmp_path.glob("cache/stores/*/incoming/told/models/told"))) == 1
    finally:
        child.kill()
        child.wait()
    assert _versions(tmp_path) == []
    server.status = 503
    store = follow()
    eventually(store.is_ready)
    assert not _has(store)
    server.status = 200
    server.goes_on.set()
    eventually(lambda: _has(store))
    assert (store.read(MODEL, {}).folder / "network.json").is_file()


def test_a_copy_that_was_damaged_is_brought_anew(follow: Follow, server: ArchiveServer) -> None:
    first = follow()
    eventually(lambda: _has(first))
    first.stop()
    (first.link(MODEL) / "network.json").write_text("{}")
    second = follow()
    with pytest.raises(CatalogueError):
        second.read(MODEL, {})
    eventually(lambda: _has(second))
    assert (second.read(MODEL, {}).folder / "network.json").read_text() == '{"mark": 0}'
    assert server.wholes == 2
