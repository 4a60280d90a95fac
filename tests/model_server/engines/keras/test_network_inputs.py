"""What a Keras network takes: what is refused gets advice only where the advice works."""

import json
from typing import Any

import pytest

from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_RUN = """
import json, os, re, sys
os.environ["KERAS_BACKEND"] = "tensorflow"
from pathlib import Path
import keras
from keras import layers
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import read_model
from model_server.engines.keras.network import KerasNetwork
from tests.model_server.engines.keras.keras2_toml import TOML

models = Path(sys.argv[1])

def head(shape):
    layer = layers.Flatten() if len(shape) > 1 else layers.Identity()
    return keras.Sequential([keras.Input(shape), layer, layers.Dense(3, activation="softmax")])

def outcome(name, network):
    folder = models / name
    folder.mkdir(exist_ok=True)
    network.save(folder / "net.keras")
    (folder / "labels.txt").write_text("a\\nb\\nc\\n")
    (folder / "model.toml").write_text(TOML.format(source='kind = "keras_file"\\nfile = "net.keras"'))
    try:
        KerasNetwork(read_model(models, name)).reference()
    except ModelUnavailable as error:
        return error.message
    return "served"

picture, more = keras.Input((32, 32, 3), name="picture"), keras.Input((4,), name="more")
joined = layers.Concatenate()([layers.Flatten()(picture), more])
networks = {
    "two": keras.Model([picture, more], layers.Dense(3, activation="softmax")(joined)),
    "rows": head((3072,)), "short": head((784,)), "first": head((3, 32, 32)), "video": head((5, 32, 32, 3)),
    "right": head((32, 32, 3)),
}
answers = {}
for name, network in networks.items():
    answers[name] = [outcome(name, network)]
    advice = re.search(r"keras[.]Sequential[(].*[)](?=[.]$)", answers[name][0])
    if advice:
        answers[name].append(outcome(name, eval(advice[0])))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    done = keras_fork.run(["-c", _RUN, str(tmp_path_factory.mktemp("models"))])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("name", "layer"), [("rows", "Reshape((3072,))"), ("first", "Permute((3, 1, 2))")])
def test_the_layer_that_a_refusal_names_makes_it_served(
    answers: dict[str, Any], name: str, layer: str
) -> None:
    refusal, afterwards = answers[name]
    assert f"keras.layers.{layer}, network])" in refusal
    assert afterwards == "served"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("two", "has 2 inputs (picture, more), but only a picture is given to it"),
        ("short", "takes (784,), not pictures of (height, width, channels), but model.toml says (32, 32, 3)"),
        ("video", "takes (5, 32, 32, 3), not pictures"),
    ],
)
def test_what_no_layer_can_turn_gets_no_such_advice(answers: dict[str, Any], name: str, words: str) -> None:
    (refusal,) = answers[name]
    assert words in refusal
    assert "keras.Sequential" not in refusal


def test_what_takes_pictures_is_served(answers: dict[str, Any]) -> None:
    assert answers["right"] == ["served"]
