"""Stores of models by their own libraries: S3, Google's storage and the Hugging Face Hub."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from model_server.stores.object_store import ObjectStore
from model_server.stores.remote_files import StoreError
from tests.e2e import versions
from tests.e2e.told_server import write
from tests.stores import packages
from tests.stores.servers import S3, Google, Hub, stopped
from tests.support import http_server
from tests.support.redis_server import RedisServer
from tests.support.stack import Stack, web_up
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.stores,
    pytest.mark.timeout(300),
    # Of libraries that warn of their own.
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not packages.PYTHON.is_file(), reason="no var/stores: `make test-stores` makes it"),
]

SECRET = "hunter2hunter2hunter2"  # noqa: S105 - nobody's
AMAZON = {
    "AWS_ACCESS_KEY_ID": "AKIAHUNTER2HUNTER2AA",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Put = Callable[[Path, str], None]


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[S3]:
    with stopped(S3(tmp_path)) as server:
        assert isinstance(server, S3)
        yield server


@pytest.fixture(params=["s3", "gs", "hf"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str, Put]]:
    """A scheme, an address below it, and how a folder is put there."""
    packages.add()
    with ExitStack() as ends:
        if request.param == "hf":
            hub = ends.enter_context(http_server.running(Hub("org/models", "v1")))
            monkeypatch.setenv("HF_ENDPOINT", hub.url)
            monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
            yield "hf", "org/models@v1/prod", hub.put
            return
        server = ends.enter_context(stopped((S3 if request.param == "s3" else Google)(tmp_path)))
        for name, value in AMAZON.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setenv("FSSPEC_GS_TOKEN", "anon")
        yield request.param, "models/prod", server.put


def test_a_store_is_listed_and_read_by_its_own_library(place: tuple[str, str, Put], tmp_path: Path) -> None:
    scheme, address, put = place
    local, copy = tmp_path / "local", tmp_path / "copy"
    (local / "told" / "sub").mkdir(parents=True)
    contents = {"model.toml": b"task", "sub/weights": bytes(range(256)) * 9000, ".hidden": b"not this"}
    for name, content in contents.items():
        (local / "told" / name).write_bytes(content)
    put(local, "prod")
    store = ObjectStore(scheme, address, most_mb=3, is_only=False)
    stamp = store.look("told")
    assert store.look("told") == stamp
    copy.mkdir()
    store.fetch("told", copy)
    copied = {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert copied == {name: content for name, content in contents.items() if name != ".hidden"}

    (local / "told" / "model.toml").write_bytes(b"TASK")  # of the same size
    put(local, "prod")
    assert store.look("told") != stamp
    with pytest.raises(StoreError, match=r"There is no other/model\.toml in the store"):
        store.look("other")
    with pytest.raises(StoreError, match="larger than 1 MB"):
        ObjectStore(scheme, address, most_mb=1, is_only=False).look("told")
    only = ObjectStore(scheme, f"{address}/told", most_mb=3, is_only=True)
    assert only.look("whatever") == store.look("told")


@pytest.fixture
def stack(own_redis: RedisServer, s3: S3, tmp_path: Path) -> Iterator[Stack]:
    """A web tier; its model servers' models come from S3."""
    made = Stack(tmp_path, own_redis.url, versions.MODEL)
    made.environment |= AMAZON | {
        "AWS_ENDPOINT_URL": s3.url,
        "MODELS_DIR": "s3://models/prod",
        "CACHE_DIR": str(tmp_path / "cache"),
        "STORE_LOOK_S": "1",
        "LOG_LEVEL": "debug",
    }
    with web_up(made):
        yield made


def test_models_are_served_from_s3(stack: Stack, s3: S3, tmp_path: Path) -> None:
    """Refused, let in, changed under load, refused again, away; then a start without it."""
    local = tmp_path / "local"
    write(local / versions.MODEL)
    s3.put(local, "prod")
    s3.check_credentials(on=True)
    stack.start("tests.stores.told_server", log="model_server")
    refused = "told: the model store refuses access: its credentials are missing, wrong or expired."
    eventually(lambda: refused in stack.text("/models"), within_s=90)
    s3.check_credentials(on=False)
    eventually(lambda: bool(stack.ready_workers()), within_s=60)
    marks = {versions.served(stack): 0}
    with versions.Load(stack) as load:
        write(local / versions.MODEL, mark=9)
        s3.put(local, "prod")
        version = versions.version(local / versions.MODEL)
        eventually(lambda: set(versions.running(stack)) == {version}, within_s=60)
        s3.check_credentials(on=True)
        eventually(
            lambda: "refuses access" in versions.log(stack).partition("has taken over")[2], within_s=60
        )
        s3.stop()
        eventually(lambda: "can't be reached" in versions.log(stack), within_s=90)
    assert load.check(marks | {version: 9}) == {*marks, version}
    stack.start("tests.stores.told_server", log="model_server")
    eventually(lambda: versions.running(stack) == [version] * 2, within_s=90)
    log = versions.log(stack)
    # Before there was a copy: by the store, and as why the model is not served. With one: once.
    assert log.count("refuses access") == 3
    assert SECRET not in log
    assert AMAZON["AWS_ACCESS_KEY_ID"] not in log
    assert "Traceback" not in log
