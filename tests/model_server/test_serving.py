"""What becomes of a changed folder, look by look, with a network that is none, on a real Redis."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from broker.clock import RedisClock
from broker.keys import Keys
from broker.registry import Registry
from model_server.catalogue import CatalogueError, ModelSpec
from model_server.engines import Engine
from model_server.keeper import Keeper
from model_server.serving import Means, Post, Serving
from model_server.versions import QUIET_S, Watch
from tests import fakes
from tests.fakes import MODEL, FakeEngine, enqueue, eventually, job


class Model:
    """A folder, and a Serving whose looks are the test's."""

    def __init__(self, folder: Path, client: redis.Redis, keys: Keys) -> None:
        self.folder = folder
        self.on_load: Callable[[], object] = lambda: None
        self.on_read: Callable[[], object] = lambda: None
        self.loads = self.staffings = 0
        self.now = 0.0
        self._registry = Registry(client, keys, RedisClock())
        (folder / "weights").write_text("one")
        watch = Watch(folder)

        def read() -> ModelSpec:
            self.on_read()
            return fakes.spec(folder)

        def load(_: ModelSpec) -> Engine:
            self.loads += 1
            self.on_load()
            return FakeEngine()

        def staff(spec: ModelSpec, load: Callable[[], Engine]) -> Post:
            self.staffings += 1
            self.on_staff()
            worker = fakes.unregistered_worker(client, keys, spec, load)
            keeper = Keeper(worker, lease_s=30, model_call_max_s=60, on_hung=lambda: None)
            return Post(worker, keeper, threading.Thread(target=worker.run))

        self.serving = Serving(read(), watch, Means(read, load, staff))
        self.serving._start(self.serving.posts[0])  # without its own looks

    def on_staff(self) -> None:
        """Called before a worker is made."""

    def end(self, client: redis.Redis, keys: Keys) -> None:
        for post in self.serving.posts:
            post.worker.stop()
        client.rpush(keys.of(MODEL).bell, "1")
        self.serving.join(float("inf"))
        for post in self.serving.posts:
            post.keeper.close()

    def change(self, text: str) -> None:
        (self.folder / "weights").write_text(text)

    def look(self) -> None:
        """A look that notices what has changed, and one after it was quiet."""
        for _ in range(2):
            self.now += QUIET_S
            self.serving.look(self.now)

    @property
    def version(self) -> str:
        return self.serving.posts[-1].worker.version

    @property
    def reason(self) -> str:
        return self._registry.models(fresh=True)[MODEL].reason

    def is_settled(self) -> bool:
        worker = self.serving.posts[-1].worker
        return worker.ready.is_set() or worker.standing.state.state == "failed"


@pytest.fixture
def model(client: redis.Redis, keys: Keys, tmp_path: Path) -> Iterator[Model]:
    made = Model(tmp_path, client, keys)
    eventually(made.is_settled)
    yield made
    made.end(client, keys)


def test_a_change_is_loaded_once_and_the_old_worker_has_left(model: Model) -> None:
    first = model.version
    model.change("two")
    model.look()
    model.look()
    assert model.version != first
    assert (model.loads, len(model.serving.posts)) == (2, 1)


def test_a_model_that_can_t_even_be_staffed_fails_alone_and_is_taken_up_once_it_can(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    def fail_once(self: Model) -> None:
        if self.staffings == 1:
            raise ValueError("no such precision")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "on_staff", fail_once)
        made = Model(tmp_path, client, keys)
    eventually(made.is_settled)
    assert made.reason == "tiny can't be served (no such precision)."
    made.change("two")
    made.look()
    assert (made.reason, made.version) == ("", fakes.spec(tmp_path).version)
    made.end(client, keys)


def test_a_change_that_can_t_be_staffed_is_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Model) -> None:
        raise ValueError("no such precision")

    first = model.version
    monkeypatch.setattr(Model, "on_staff", fail)
    model.change("two")
    model.look()
    assert model.reason == f"tiny can't be served (no such precision). Version {first} serves on."
    assert (model.version, len(model.serving.posts)) == (first, 1)


def test_files_that_were_only_touched_are_not_loaded_again(model: Model) -> None:
    model.change("one")
    model.look()
    assert model.loads == 1


def test_what_changes_while_it_is_loaded_is_never_served(model: Model) -> None:
    """Half of it might be of the one version, half of the other."""
    first = model.version
    model.change("two")
    model.on_load = lambda: model.change("three")
    model.look()
    assert (model.version, model.reason) == (first, "")
    model.on_load = lambda: None
    model.look()
    assert model.version == fakes.spec(model.folder).version


def test_the_first_version_too_is_just_what_was_read(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    def change_once(model: Model) -> None:
        if model.loads == 1:
            model.change("two")

    original = Model.__init__
    made = Model.__new__(Model)
    made.on_load = lambda: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Serving, "_start", lambda *_: True)
        original(made, tmp_path, client, keys)
    made.on_load = lambda: change_once(made)
    made.serving._start(made.serving.posts[0])
    eventually(made.is_settled)
    assert "changed while they were loaded" in made.reason
    made.look()
    assert (made.reason, made.version) == ("", fakes.spec(tmp_path).version)
    made.serving.stop(within_s=0)
    client.rpush(keys.of(MODEL).bell, "1")
    made.serving.join(float("inf"))


def test_a_refusal_is_said_and_taken_back_when_the_old_content_is(model: Model) -> None:
    def refuse() -> None:
        raise CatalogueError("line 3 is wrong")

    first = model.version
    model.change("two")
    model.on_read = refuse
    model.look()
    assert model.reason == f"line 3 is wrong Version {first} serves on."
    model.change("one")
    model.on_read = lambda: None
    model.look()
    assert (model.reason, model.version, model.loads) == ("", first, 1)


def test_what_is_refused_is_not_tried_again_until_it_changes(model: Model) -> None:
    def fail() -> None:
        raise ValueError("axis -1")

    model.change("two")
    model.on_load = fail
    model.look()
    model.look()
    assert model.loads == 2
    assert "can't be run" in model.reason
    model.change("two")  # touched
    model.on_load = lambda: None
    model.look()
    assert (model.loads, model.reason) == (3, "")


def test_no_worker_begins_once_the_process_stops(model: Model) -> None:
    model.change("two")
    model.on_load = lambda: model.serving.stop(within_s=0)
    model.look()
    assert not model.serving.posts[-1].thread.is_alive() or len(model.serving.posts) == 1
    assert not model.serving.posts[-1].worker.ready.is_set()
    model.serving.posts.pop()


@pytest.mark.parametrize("verb", ["stop", "join"])
def test_every_worker_is_told_though_one_leaves_meanwhile(model: Model, verb: str) -> None:
    """The versions thread takes the old one away: the one behind it must not be passed over."""
    told: list[str] = []

    class Leaving:
        def __init__(self, name: str) -> None:
            self.worker = self.thread = self
            self.is_hung = False
            self.name = name

        def stop(self, **_: float) -> None:
            told.append(self.name)
            posts.pop(0)

        def is_alive(self) -> bool:
            told.append(self.name)
            posts.pop(0)
            return False

    posts = [Leaving("old"), Leaving("new")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.serving, "posts", posts)
        if verb == "stop":
            model.serving.stop(within_s=0)
        else:
            model.serving.join(float("inf"))
    assert told == ["old", "new"]


def test_a_batch_of_the_old_version_names_it(client: redis.Redis, keys: Keys, model: Model) -> None:
    first = model.version
    (before,) = enqueue(client, keys, job())
    results = fakes.producer(client, keys)
    eventually(lambda: hasattr(results.poll(MODEL, before.id), "model_version"))
    model.change("two")
    model.look()
    (after,) = enqueue(client, keys, job())
    eventually(lambda: hasattr(results.poll(MODEL, after.id), "model_version"))
    versions = [getattr(results.poll(MODEL, each.id), "model_version", "") for each in (before, after)]
    assert versions == [first, model.version]
    assert versions[0] != versions[1]
