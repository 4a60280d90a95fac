"""A model whose weights lie outside its folder, look by look: they are its version as what is inside is."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from broker.keys import Keys
from model_server.catalogue import folder_watch, model_spec
from model_server.catalogue.model_spec import KerasApplication, ModelSpec
from tests.model_server.serving.versioned import Model
from tests.support import fakes
from tests.support.waiting import eventually


@pytest.fixture
def weights(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file outside the folder of the model, which the model takes its weights from."""
    file = tmp_path_factory.mktemp("elsewhere") / "weights.h5"
    file.write_text("one")
    spec = fakes.spec

    def with_weights(folder: Path) -> ModelSpec:
        return replace(spec(folder), source=KerasApplication("ResNet50", str(file)))

    monkeypatch.setattr(fakes, "spec", with_weights)
    return file


@pytest.fixture
def model(client: redis.Redis, keys: Keys, tmp_path: Path, weights: Path) -> Iterator[Model]:
    assert weights.is_file()
    made = Model(tmp_path, client, keys)
    eventually(made.is_settled)
    yield made
    made.end(client, keys)


@pytest.mark.slow
def test_changed_weights_from_elsewhere_are_taken_up(weights: Path, model: Model) -> None:
    first = model.version
    model.look()
    assert (model.version, model.loads) == (first, 1)
    weights.write_text("two")
    model.look()
    assert model.version == fakes.spec(model.folder).version != first


@pytest.mark.slow
def test_weights_from_elsewhere_that_change_while_they_are_loaded_are_not_served(
    weights: Path, model: Model
) -> None:
    first = model.version

    def change_once() -> None:
        if weights.read_text() == "one":
            weights.write_text("two")

    model.on_load = change_once
    model.change("two")
    model.look()
    assert model.version == first
    assert (len(model.serving.workers), model.loads) == (1, 2)
    model.look()
    assert model.version == fakes.spec(model.folder).version != first


@pytest.mark.slow
def test_weights_named_by_a_changed_folder_are_watched_from_then_on(
    weights: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = weights.with_name("other.h5")
    other.write_text("other")
    spec = fakes.spec
    monkeypatch.setattr(
        fakes, "spec", lambda folder: replace(spec(folder), source=KerasApplication("ResNet50", str(other)))
    )
    model.change("two")
    model.look()
    second = model.version
    assert second == fakes.spec(model.folder).version
    weights.write_text("nobody's now")
    model.look()
    assert (model.version, model.loads) == (second, 2)
    other.write_text("changed")
    model.look()
    assert model.version == fakes.spec(model.folder).version != second


@pytest.mark.slow
def test_a_version_is_read_once(weights: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes seconds where the weights are large."""
    read: list[Path | None] = []

    def counted(folder: Path, source: str, elsewhere: Path | None) -> str:
        read.append(elsewhere)
        return folder_watch.version_of(folder, source, elsewhere)

    monkeypatch.setattr(model_spec, "version_of", counted)
    weights.write_text("two")
    model.look()
    assert model.loads == 2
    assert read == [weights]


def test_the_copies_of_a_spec_share_its_version_unless_they_are_of_another_network(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("one")
    spec = fakes.spec(tmp_path)
    first = replace(spec, engine="chosen").version
    (tmp_path / "weights").write_text("two")
    assert (spec.version, spec.card().model_version) == (first, first)
    assert replace(spec, source=KerasApplication("ResNet50")).version != first
    assert fakes.spec(tmp_path).version != first
