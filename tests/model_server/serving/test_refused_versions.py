"""What is said of a folder that can't be served, and until when, look by look, on a real Redis."""

from pathlib import Path

import pytest
import redis

from broker.errors import ModelUnavailable
from broker.keys import Keys
from model_server.catalogue.model_spec import CatalogueError
from tests.model_server.serving.versioned import Model, failed
from tests.support import fakes
from tests.support.waiting import eventually


@pytest.mark.slow
def test_a_model_whose_worker_can_t_be_made_fails_alone_and_is_taken_up_once_it_can(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    def fail_once(self: Model) -> None:
        if self.workers_made == 1:
            raise ValueError("no such precision")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Model, "on_make_worker", fail_once)
        made = Model(tmp_path, client, keys)
    eventually(made.is_settled)
    assert made.reason == "tiny can't be served (no such precision)."
    made.change("two")
    made.look()
    assert (made.reason, made.version) == ("", fakes.spec(tmp_path).version)
    made.end(client, keys)


def test_a_change_whose_worker_can_t_be_made_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Model) -> None:
        raise ValueError("no such precision")

    first = model.version
    monkeypatch.setattr(Model, "on_make_worker", fail)
    model.change("two")
    model.look()
    assert model.reason == f"tiny can't be served (no such precision). Version {first} serves on."
    assert (model.version, len(model.serving.workers)) == (first, 1)


def test_a_refusal_is_said_and_taken_back_when_the_old_content_is(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

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
    again = f"tiny: its folder is in order again, version {first} serves on"
    assert caplog.messages[-1] == again
    model.change("one")  # touched: nothing was wrong with it
    model.look()
    assert caplog.messages.count(again) == 1


@pytest.mark.slow
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


def test_paths_are_told_from_the_models_folder_on_and_the_log_has_all(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise CatalogueError(f"{model.folder}/model.toml, line 3, top: It is 4.")

    model.change("two")
    model.on_read = refuse
    model.look()
    place = f"{model.folder.parent.name}/{model.folder.name}/model.toml"
    assert model.reason == f"{place}, line 3, top: It is 4. Version {model.version} serves on."
    assert f"{model.folder}/model.toml, line 3" in caplog.text


def test_a_worker_that_failed_tells_no_paths_either(client: redis.Redis, keys: Keys, tmp_path: Path) -> None:
    made = failed(client, keys, tmp_path, f"no file {tmp_path}/net.onnx, nor '/srv/other/net.onnx'")
    place = f"{tmp_path.parent.name}/{tmp_path.name}/net.onnx"
    assert made.reason == f"no file {place}, nor 'net.onnx'"
    made.end(client, keys)


@pytest.mark.slow
def test_while_a_mended_folder_is_loaded_the_old_reason_is_no_longer_told(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    made = failed(client, keys, tmp_path, "no weights")
    assert (made.state, made.reason) == ("failed", "no weights")
    seen: list[tuple[str, str]] = []
    made.change("two")
    made.on_load = lambda: seen.append((made.state, made.reason))
    made.look()
    assert seen == [("failed", "tiny: its changed folder is being loaded.")]
    assert (made.state, made.reason) == ("ready", "")
    made.end(client, keys)


@pytest.mark.slow
def test_a_folder_that_is_still_broken_fails_again_and_can_be_mended(
    client: redis.Redis, keys: Keys, tmp_path: Path
) -> None:
    """Also one that changes while it is loaded, which is looked at anew."""

    def change_and_fail() -> None:
        made.change("three")
        raise ModelUnavailable("still none")

    made = failed(client, keys, tmp_path, "no weights")
    made.change("two")
    made.on_load = change_and_fail
    made.look()
    assert made.state == "failed"
    made.on_load = lambda: None
    made.look()
    assert (made.state, made.reason) == ("ready", "")
    made.end(client, keys)


@pytest.mark.slow
def test_a_refusal_is_not_told_while_the_next_change_is_loaded_nor_by_the_one_that_drains(
    model: Model,
) -> None:
    def fail() -> None:
        raise ModelUnavailable("broken")

    model.change("two")
    model.on_load = fail
    model.look()
    assert model.reason.startswith("broken")
    seen: list[str] = []
    model.change("three")
    model.on_load = lambda: seen.append(model.reason)
    model.look()
    assert seen == [""]
