"""What becomes of a changed folder, look by look, with a network that is none, on a real Redis."""

from pathlib import Path

import pytest
import redis

from broker.keys import Keys
from model_server.serving.versioned_model import VersionedModel
from tests.model_server.serving.versioned import Model
from tests.support import fakes
from tests.support.fakes import MODEL, enqueue, job
from tests.support.waiting import eventually


@pytest.mark.slow
def test_a_change_is_loaded_once_and_the_old_worker_has_left(model: Model) -> None:
    first = model.version
    model.change("two")
    model.look()
    model.look()
    assert model.version != first
    assert (model.loads, len(model.serving.workers)) == (2, 1)


def test_files_that_were_only_touched_are_not_loaded_again(model: Model) -> None:
    model.change("one")
    model.look()
    assert model.loads == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_first_version_too_is_just_what_was_read(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    def change_once(model: Model) -> None:
        if model.loads == 1:
            model.change("two")

    original = Model.__init__
    made = Model.__new__(Model)
    made.on_load = lambda: None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VersionedModel, "_start", lambda *_: True)
        original(made, tmp_path, client, keys)
    made.on_load = lambda: change_once(made)
    made.serving.start(watching=False)
    eventually(made.is_settled)
    assert "changed while they were loaded" in made.reason
    made.look()
    assert (made.reason, made.version) == ("", fakes.spec(tmp_path).version)
    made.serving.stop(within_s=0)
    client.rpush(keys.of(MODEL).bell, "1")
    made.serving.join(float("inf"))


def test_no_worker_begins_once_the_process_stops(model: Model) -> None:
    model.change("two")
    model.on_load = lambda: model.serving.stop(within_s=0)
    model.look()
    assert not model.serving.workers[-1].thread.is_alive() or len(model.serving.workers) == 1
    assert not model.serving.workers[-1].worker.ready.is_set()
    model.serving.workers.pop()


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
        patch.setattr(model.serving, "workers", posts)
        if verb == "stop":
            model.serving.stop(within_s=0)
        else:
            model.serving.join(float("inf"))
    assert told == ["old", "new"]


@pytest.mark.slow
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
