"""The converted networks on disk: made once, complete or not there, found again by what they were made of."""

import dataclasses
import hashlib
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import KerasApplication
from model_server.catalogue.model_toml import SavedModel, TorchNetwork
from model_server.engines.check.agreement import Reference
from model_server.engines.openvino import store
from model_server.engines.openvino.store import Store, StoreEntry
from model_server.tasks.classification import ClassificationTask
from tests.model_server.engines import tiny

WHAT: dict[str, object] = {"weights": "abc", "width": "full"}


def _make(folder: Path) -> dict[str, object]:
    (folder / "network.xml").write_text("graph")
    return {"found": 0.5}


def _fail(_: Path) -> dict[str, object]:
    raise AssertionError("made a second time")


def test_an_entry_is_made_once_and_found_again(tmp_path: Path) -> None:
    entry = Store(tmp_path / "new").find_or_make("tiny", WHAT, _make)
    assert entry.network.read_text() == "graph"
    assert entry.manifest()["found"] == 0.5
    assert entry.manifest()["ingredients"] == WHAT
    assert Store(tmp_path / "new").find_or_make("tiny", dict(reversed(WHAT.items())), _fail) == entry
    assert Store(tmp_path / "new").find("tiny", WHAT | {"width": "half"}) is None
    assert Store(tmp_path / "new").find("other", WHAT) is None


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def cut_short(folder: Path) -> dict[str, object]:
        _make(folder)
        raise ModelUnavailable("no weights")

    with pytest.raises(ModelUnavailable, match="no weights"):
        Store(tmp_path).find_or_make("tiny", WHAT, cut_short)
    assert Store(tmp_path).find("tiny", WHAT) is None
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: str) -> None:
    entry = Store(tmp_path).find_or_make("tiny", WHAT, _make)
    if damage == "cut":
        os.truncate(entry.network, 2)
    elif damage == "gone":
        entry.network.unlink()
    else:
        (entry.folder / "manifest.json").write_text("{")
    assert Store(tmp_path).find("tiny", WHAT) is None
    assert Store(tmp_path).find_or_make("tiny", WHAT, _make).network.read_text() == "graph"
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [entry.folder.name]


def test_two_that_start_at_once_make_it_once(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> dict[str, object]:
        made.append(threading.get_ident())
        time.sleep(0.2)
        return _make(folder)

    threads = [
        threading.Thread(target=lambda: Store(tmp_path).find_or_make("tiny", WHAT, make)) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_folder_that_can_t_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailable, match="can't be written to CACHE_DIR"):
        Store(tmp_path / "file" / "engines").find_or_make("tiny", WHAT, _make)


def test_only_the_latest_used_are_kept_and_every_int8_one(tmp_path: Path) -> None:
    kept = Store(tmp_path)
    int8 = kept.find_or_make("tiny", {"kind": "int8"}, _make)
    other = kept.find_or_make("tiny-b", WHAT, _make)
    entries = [kept.find_or_make("tiny", {"number": number}, _make) for number in range(4)]
    for age, entry in enumerate([int8, other, *entries]):
        os.utime(entry.folder, (1_000_000 + age, 1_000_000 + age))
    assert kept.find("tiny", {"number": 0})  # used now, so the oldest is the next
    newest = kept.find_or_make("tiny", {"number": 9}, _make)
    gone = [entry for entry in [int8, other, *entries, newest] if not entry.folder.exists()]
    assert gone == [entries[1]]


def test_the_reference_comes_back(tmp_path: Path) -> None:
    pictures = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    outputs = (np.ones((2, 3), np.float32), np.zeros((2, 5, 2), np.float32))

    def make(folder: Path) -> dict[str, object]:
        store.write_reference(folder, Reference(pictures, outputs))
        return {}

    found = Store(tmp_path).find_or_make("tiny", WHAT, make).reference()
    assert (found.pictures == pictures).all()
    assert [each.shape for each in found.outputs] == [(2, 3), (2, 5, 2)]
    assert {each.dtype for each in found.outputs} == {np.dtype(np.float32)}


def test_all_that_reaches_the_graph_is_an_ingredient_and_no_more(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path)
    first = store.network_ingredients(spec)
    assert store.network_ingredients(dataclasses.replace(spec, top=1, precision="bf16")) == first
    assert store.network_ingredients(dataclasses.replace(spec, normalise="tf")) != first
    assert store.network_ingredients(dataclasses.replace(spec, labels=spec.labels[:2])) != first
    wider = dataclasses.replace(spec.input, width=3)
    assert store.network_ingredients(dataclasses.replace(spec, input=wider)) != first
    (tmp_path / "tiny.keras").write_bytes(b"others")
    assert store.network_ingredients(spec) != first


class OrdinalTask(ClassificationTask):
    """It reads what a classifier reads in another way."""

    name = "ordinal"
    reads_one_as_two = False


def test_a_graph_is_not_reused_for_another_task(tmp_path: Path) -> None:
    """One number for two labels becomes two for a classifier alone."""
    spec = dataclasses.replace(tiny.spec(tmp_path), labels=tiny.spec(tmp_path).labels[:2])
    ordinal = dataclasses.replace(spec, task=OrdinalTask())
    assert store.network_ingredients(ordinal) != store.network_ingredients(spec)
    entry = Store(tmp_path / "store").find_or_make("tiny", store.network_ingredients(spec), _make)
    assert Store(tmp_path / "store").find("tiny", store.network_ingredients(spec)) == entry
    assert Store(tmp_path / "store").find("tiny", store.network_ingredients(ordinal)) is None


def test_what_a_model_toml_leaves_out_is_no_ingredient(tmp_path: Path) -> None:
    """Else each new field would cost the int8 networks, which only the users' pictures can make again."""
    spec = tiny.spec(tmp_path)
    assert store.network_ingredients(spec) == {
        "source": "KerasFile",
        "weights": hashlib.sha256(b"weights").hexdigest(),
        "input": {"width": 2, "height": 2, "channels": 1, "fit": "stretch"},
        "normalise": "unit",
        "classes": 3,
    }
    resized = dataclasses.replace(spec.input, resize=9)
    for changed in (
        dataclasses.replace(spec, order="bgr"),
        dataclasses.replace(spec, activation="softmax"),
        dataclasses.replace(spec, input=resized),
    ):
        assert store.network_ingredients(changed) != store.network_ingredients(spec)


def test_weights_count_by_content_wherever_they_lie(tmp_path: Path) -> None:
    spec = tiny.spec(tmp_path)
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        path.write_bytes(b"same")
    first, second, third, random = (
        store.network_ingredients(dataclasses.replace(spec, source=KerasApplication("ResNet50", weights)))
        for weights in (str(paths[0]), str(paths[1]), str(tmp_path / "none.h5"), "random")
    )
    assert first["weights"] == second["weights"] != third["weights"]
    assert random["weights"] == "random"


def test_a_network_behind_a_link_is_an_ingredient(tmp_path: Path) -> None:
    spec = dataclasses.replace(tiny.spec(tmp_path), source=SavedModel("current"))
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_text(name)
    found = []
    for name in ("v1", "v2"):
        (tmp_path / "current").unlink(missing_ok=True)
        (tmp_path / "current").symlink_to(name)
        found.append(store.network_ingredients(spec))
    assert found[0] != found[1]


def test_that_a_network_can_t_be_converted_is_kept_until_an_ingredient_changes(tmp_path: Path) -> None:
    def refuse(folder: Path) -> dict[str, object]:
        _make(folder)
        StoreEntry(folder).refuse("no rule for bessel_j0")
        return {}

    entry = Store(tmp_path).find_or_make("tiny", WHAT, refuse)
    assert entry.refusal() == "no rule for bessel_j0"
    assert not entry.network.exists()
    assert Store(tmp_path).find_or_make("tiny", WHAT, _fail).refusal() == entry.refusal()
    assert Store(tmp_path).find_or_make("tiny", WHAT | {"versions": "newer"}, _make).refusal() == ""


def test_a_name_in_a_library_is_an_ingredient(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"weights")
    specs = [
        dataclasses.replace(tiny.spec(tmp_path), source=TorchNetwork("timm", name, "net.pth"))
        for name in ("resnet18", "resnet34")
    ]
    first, second = map(store.network_ingredients, specs)
    assert first != second
