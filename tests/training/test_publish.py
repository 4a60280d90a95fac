"""A model's folder appears, and is replaced, all at once; what is in it is what the catalogue takes."""

import threading
from pathlib import Path

import pytest

from broker.messages import Fit, InputSpec
from model_server.catalogue.model_spec import KerasFile, read_model
from training import publish
from training.network_input import NetworkInput
from training.publish import PublishError

SPEC = InputSpec(width=96, height=64, channels=3, fit=Fit.PAD)


TAKEN = NetworkInput(SPEC, "tf")


def _write(draft: Path, classes: tuple[str, ...], comment: str = "a comment") -> None:
    (draft / "n.keras").write_bytes(b"network")
    publish.write_labels(draft, classes)
    publish.write_model_toml(draft, network="n.keras", taken=TAKEN, top=2, comment=comment)


def _put(folder: Path, classes: tuple[str, ...], *, replace: bool = False) -> None:
    with publish.published(folder, replace=replace) as draft:
        _write(draft, classes)


def test_the_catalogue_reads_what_was_written(tmp_path: Path) -> None:
    classes = ("poodle, standard", 'the "pug"', "Dächshund")
    _put(tmp_path / "dogs", classes)
    spec = read_model(tmp_path, "dogs")
    assert [label.label for label in spec.labels] == [label.class_id for label in spec.labels] == [*classes]
    assert (spec.input, spec.normalise, spec.top) == (SPEC, "tf", 2)
    assert spec.source == KerasFile(file="n.keras")
    assert (tmp_path / "dogs").stat().st_mode & 0o777 == 0o755
    assert [path.name for path in tmp_path.iterdir()] == ["dogs"]


def test_a_model_that_is_there_stays_unless_it_is_to_be_replaced(tmp_path: Path) -> None:
    _put(tmp_path / "dogs", ("a", "b"))
    with pytest.raises(PublishError, match="exists already: --replace"):
        _put(tmp_path / "dogs", ("c", "d"))
    assert read_model(tmp_path, "dogs").labels[0].label == "a"
    (tmp_path / "dogs" / "stale.pb").touch()
    _put(tmp_path / "dogs", ("c", "d"), replace=True)
    assert read_model(tmp_path, "dogs").labels[0].label == "c"
    assert not (tmp_path / "dogs" / "stale.pb").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["dogs"]


def test_a_failure_leaves_what_was_there_and_no_draft(tmp_path: Path) -> None:
    _put(tmp_path / "dogs", ("a", "b"))

    def fail(folder: Path) -> None:
        with publish.published(folder, replace=True) as draft:
            (draft / "half").touch()
            raise RuntimeError

    for name in ("dogs", "new"):
        with pytest.raises(RuntimeError):
            fail(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["dogs"]
    assert read_model(tmp_path, "dogs").labels[0].label == "a"


@pytest.mark.slow
def test_who_looks_on_sees_a_whole_model_at_every_moment(tmp_path: Path) -> None:
    folder = tmp_path / "dogs"
    _put(folder, ("a", "b"))
    done, looks = threading.Event(), [0]
    failures: list[str] = []

    def look() -> None:
        while not done.is_set():
            looks[0] += 1
            try:
                (folder / "model.toml").stat()
            except FileNotFoundError as error:
                failures.append(str(error))

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(200):
        _put(folder, (f"a{number}", "b"), replace=True)
    done.set()
    watcher.join()
    assert failures == []
    assert looks[0] > 200


def test_a_place_that_can_t_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PublishError, match="can't be written"):
        _put(tmp_path / "file" / "dogs", ("a", "b"))


def test_a_disk_that_fills_up_is_said_so(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        with publish.published(folder, replace=False) as draft:
            (draft / "half").touch()
            raise OSError(28, "No space left on device")

    with pytest.raises(PublishError, match=r"dogs can't be written .*No space left"):
        fail(tmp_path / "dogs")
    assert list(tmp_path.iterdir()) == []
