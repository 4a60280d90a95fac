"""A model's folder that can't be served: what is said of it, and that it is mended, on real processes."""

import json
import shutil

import pytest

from tests.e2e import versions
from tests.e2e.told_server import write
from tests.e2e.versions import MODEL
from tests.support import ROOT, conversions, http
from tests.support.stack import Stack
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def test_a_broken_folder_is_refused_in_words_and_taken_up_once_it_is_mended(told: Stack) -> None:
    folder = versions.folder(told)
    versions.start(told)
    first = versions.version(folder)
    toml = (folder / "model.toml").read_text()
    marks = {first: 0}
    with versions.Load(told) as load:
        for name, text, words in (
            ("model.toml", toml.replace("stretch", "streach"), "streach"),
            ("network.json", json.dumps({"fails": "it is broken"}), "it is broken"),
            ("network.json", "{", "can't be run"),
        ):
            kept = (folder / name).read_text()
            (folder / name).write_text(text)
            eventually(lambda words=words: words in versions.shown(told)["reason"])  # type: ignore[misc]
            assert (versions.shown(told)["state"], versions.served(told)) == ("ready", first)
            assert f"version {first} serves on" in versions.shown(told)["reason"].lower()
            assert words in versions.log(told)
            (folder / name).write_text(kept)
            eventually(lambda: versions.shown(told)["reason"] == "")
        gone = folder.with_name(".gone")
        folder.rename(gone)
        eventually(lambda: "gone" in versions.shown(told)["reason"])
        gone.rename(folder)
        write(folder, mark=9)
        marks[versions.version(folder)] = 9
        eventually(
            lambda: (versions.served(told), versions.shown(told)["reason"]) == (versions.version(folder), "")
        )
    assert load.check(marks) == set(marks)


def test_a_model_that_failed_to_load_is_served_once_its_folder_is_mended(told: Stack) -> None:
    folder = versions.folder(told)
    write(folder, fails="no weights")
    told.start("tests.e2e.told_server", log="model_server")
    eventually(lambda: told.answers("/models") and _state(told) == "failed", within_s=30)
    assert versions.post(told, 1).status_code == 503
    write(folder, fails="still none")
    eventually(lambda: "still none" in versions.shown(told)["reason"])
    write(folder, mark=3)
    eventually(lambda: _state(told) == "ready")
    assert versions.post(told, 1).json()["predictions"][0]["label"] == "4"


def _state(stack: Stack) -> str:
    models = http.get(f"{stack.url}/models", timeout=5).json()["models"]
    return str(models[0]["state"]) if models else ""


def test_a_real_network_is_taken_up_refused_when_it_is_cut_short_and_mended(told: Stack) -> None:
    """`digits` on the product's own engine: its labels, then its weights, file by file."""
    folder = versions.folder(told)
    shutil.rmtree(folder)
    shutil.copytree(ROOT / "models" / "digits", folder)
    told.environment |= conversions.convert(folder.parent, MODEL, told.folder / "engines")
    told.start("model_server", log="model_server")
    eventually(lambda: told.answers(f"/readyz?model={MODEL}"), within_s=90)
    first, seven = versions.version(folder), (ROOT / "docs" / "digit-7.png").read_bytes()

    def ask() -> tuple[str, str]:
        files = {"image": ("7.png", seven)}
        url = f"{told.url}/predict?model={MODEL}"
        body = http.post(url, files=files, timeout=30).json()
        return body["predictions"][0]["label"], body["model_version"]

    assert ask() == ("7", first)
    labels = (folder / "labels.csv").read_text()
    (folder / "labels.csv").write_text(labels.replace("7,7,7", "7,7,seven"))
    eventually(lambda: versions.served(told) == versions.version(folder), within_s=60)
    second = versions.version(folder)
    assert ask() == ("seven", second)
    network = (folder / "digits.keras").read_bytes()
    (folder / "digits.keras").write_bytes(network[: len(network) // 2])
    eventually(lambda: f"Version {second} serves on" in versions.shown(told)["reason"], within_s=60)
    assert ask() == ("seven", second)
    (folder / "digits.keras").write_bytes(network)
    (folder / "labels.csv").write_text(labels)
    eventually(lambda: (versions.served(told), versions.shown(told)["reason"]) == (first, ""), within_s=60)
    assert ask() == ("7", first)
