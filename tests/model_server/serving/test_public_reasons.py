"""What of a reason is told to those who have no business with this machine's folders."""

from pathlib import Path

import pytest

from model_server.serving.public_reasons import public


def test_what_lies_in_the_models_folder_is_named_from_there_on(tmp_path: Path) -> None:
    models = tmp_path / "the nets"
    reason = f"{models}/mine/model.toml, line 3, top: It is 4. See {models}/mine/labels.csv."
    told = "the nets/mine/model.toml, line 3, top: It is 4. See the nets/mine/labels.csv."
    assert public(reason, models / "mine") == told


def test_a_link_to_the_models_folder_is_as_good(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "link").symlink_to("nets")
    for each in ("nets", "link"):
        assert (
            public(f"{tmp_path}/{each}/a/b.onnx is none", tmp_path / "link" / "a") == "nets/a/b.onnx is none"
        )


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("no file of weights '/srv/our nets/w.h5'.", "no file of weights 'w.h5'."),
        ('Could not open "/srv/a/b.pb".', 'Could not open "b.pb".'),
        (
            "can't be kept ([Errno 13] Permission denied: '/app/var/x')",
            "can't be kept ([Errno 13] Permission denied: 'x')",
        ),
        ("filepath=/srv/a/b.h5 (is none)", "filepath=b.h5 (is none)"),
        ("filepath:/srv/a/b.h5, file:///srv/a/c.h5", "filepath:b.h5, c.h5"),
        ("no '/srv/a \"b\"/c.h5' there", "no 'c.h5' there"),
        ("failure on https://a.example/b/c.h5?key=s: None", "failure on c.h5: None"),
        ("no answer of redis://u:p@10.0.0.5:6379", "no answer of an address"),
        ("no route to 10.0.0.5:443 or [fe80::1]:443", "no route to an address or an address"),
        ("it raised (keras.src.ValueError: too few)", "it raised (too few)"),
        ("it failed (MemoryError).", "it failed (an error)."),
        ("got <x.Layer object at 0x7f1e>, TensorFlow 2.21.0 needs 3", "got an object, TensorFlow needs 3"),
        ("Check failed at src/core/src/model.cpp:90: bad", "Check failed at its own code: bad"),
        ("Keras 3 can't load a file of Keras 2.4", "Keras 3 can't load a file of Keras 2.4"),
        (
            "see docs/models.md, image/png or models/a/b.csv",
            "see docs/models.md, image/png or models/a/b.csv",
        ),
        ("1 / 2 and /predict", "1 / 2 and /predict"),
    ],
)
def test_of_other_paths_the_last_part_is_left(reason: str, told: str) -> None:
    assert public(reason, Path("/srv/models/mine")) == told
