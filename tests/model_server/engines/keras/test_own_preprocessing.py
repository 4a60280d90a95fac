"""A network's own preprocessing against model.toml's: what is refused, what is warned of, what is right."""

import json
from typing import Any

import pytest

from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

_RUN = """
import json, logging, os
os.environ["KERAS_BACKEND"] = "tensorflow"
from dataclasses import replace
from pathlib import Path
import keras
import numpy as np
from keras import layers
from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import KerasApplication, read_model
from model_server.catalogue.model_toml import Normalisation
from model_server.engines.keras import own_preprocessing, sources

warned = []
own_preprocessing._LOG.addHandler(logging.Handler())
own_preprocessing._LOG.handlers[0].emit = lambda record: warned.append(record.getMessage())
spec = read_model(Path("models"), "photos10")
picture = keras.Input((32, 32, 3))
constants = layers.Normalization(mean=[120, 110, 100], variance=[3600, 3000, 2500])
adapted = layers.Normalization()
adapted.adapt(np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.float32))
efficient = keras.applications.EfficientNetB0(weights=None, include_top=False, input_shape=(32, 32, 3))
last = layers.Conv2D(2, 3)
networks = {
    "plain": keras.Sequential([picture, last]),
    "rescaling": keras.Sequential([picture, layers.RandomFlip(), layers.Rescaling(1 / 127.5, -1), last]),
    "of_units": keras.Sequential([picture, layers.Rescaling(2.0, -1), last]),
    "constants": keras.Sequential([picture, constants, last]),
    "adapted": keras.Sequential([picture, adapted, last]),
    "of_pixels": keras.Model(picture, last(keras.applications.mobilenet_v2.preprocess_input(picture))),
    "caffe": keras.Model(picture, last(keras.applications.resnet50.preprocess_input(picture))),
    "within": keras.Model(picture, layers.GlobalAveragePooling2D()(efficient(picture))),
}
shared = layers.Rescaling(1 / 127.5, -1)
augment = keras.Sequential([keras.Input((32, 32, 3)), layers.RandomFlip(), shared])

def branches(*first):
    # Convolutions side by side, each behind its own first layer.
    behind = [layers.Conv2D(3, 3)(picture if layer is None else layer(picture)) for layer in first]
    return keras.Model(picture, layers.Concatenate()(behind))

unit = lambda: layers.Rescaling(1 / 255)
networks |= {
    "alike": branches(unit(), unit()),
    "apart": branches(unit(), layers.Rescaling(1 / 127.5, -1)),
    "half": branches(unit(), None),
    "augmented": keras.Model(picture, layers.Conv2D(2, 3)(augment(picture))),
    "twice": keras.Model(picture, layers.Conv2D(2, 3)(layers.Rescaling(127.5, 127.5)(augment(picture)))),
}
table = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))

def outcome(check, *arguments):
    warned.clear()
    try:
        check(*arguments)
    except ModelUnavailable as error:
        return error.message
    return ["warned", *warned] if warned else "right"

own = {
    name: {
        normalise if isinstance(normalise, str) else "table": outcome(
            own_preprocessing.require_once, replace(spec, normalise=normalise), network
        )
        for normalise in ("none", "unit", "tf", "torch", "caffe", table)
    }
    for name, network in networks.items()
}
published = {
    f"{name} {weights} {normalise}": outcome(
        own_preprocessing.require_published,
        replace(spec, normalise=normalise, order="bgr" if normalise == "tf" and name == "VGG16" else "rgb"),
        KerasApplication(name, weights),
        getattr(keras.applications, name),
    )
    for name in ("ResNet50", "MobileNetV2", "DenseNet121", "EfficientNetB0", "ConvNeXtTiny", "VGG16")
    for weights in ("imagenet", "mine.h5", "random")
    for normalise in ("none", "unit", "tf", "torch", "caffe")
}
resnet = replace(spec, source=KerasApplication("ResNet50"), normalise="tf")
print(json.dumps({"own": own, "published": published, "built": outcome(sources.build, resnet)}))
"""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Any]:
    done = keras_fork.run(["-c", _RUN])
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_any_training_may_explain_is_no_reason_to_refuse(outcomes: dict[str, Any]) -> None:
    own = outcomes["own"]
    assert set(map(str, own["plain"].values())) == {"right"}
    assert set(map(str, own["caffe"].values())) == {"right"}
    for name in ("rescaling", "constants", "adapted", "of_pixels", "within"):
        assert own[name]["none"] == "right"
    assert own["of_units"]["unit"] == "right"
    # One after the other, the two rescalings would make a 65,025th.
    for name in ("alike", "augmented"):
        assert own[name]["none"] == "right"
    assert own["twice"]["unit"] == "right"  # what the inner network rescales, the outer one takes back


@pytest.mark.parametrize("name", ["apart", "half"])
def test_branches_that_take_other_numbers_are_no_reason_to_say_anything(
    outcomes: dict[str, Any], name: str
) -> None:
    assert set(map(str, outcomes["own"][name].values())) == {"right"}


@pytest.mark.parametrize(
    "name", ["rescaling", "constants", "adapted", "of_pixels", "within", "alike", "augmented"]
)
@pytest.mark.parametrize("normalise", ["unit", "tf", "torch"])
def test_pixels_that_would_be_normalised_twice_are_refused(
    outcomes: dict[str, Any], name: str, normalise: str
) -> None:
    message = outcomes["own"][name][normalise]
    assert message.startswith("photos10: the network normalises pixels itself (its layer '")
    assert 'Write normalise = "none" in [input] of model.toml. If it was trained so' in message


def test_a_table_was_written_on_purpose(outcomes: dict[str, Any]) -> None:
    kind, message = outcomes["own"]["rescaling"]["table"]
    assert kind == "warned"
    assert "of which it would make -1 to -0.992" in message


def test_a_normalisation_that_is_missing_is_refused(outcomes: dict[str, Any]) -> None:
    message = outcomes["own"]["of_units"]["none"]
    assert "was adapted to smaller numbers" in message
    assert '"unit" makes 0 to 1' in message


PUBLISHED = {
    **{"ResNet50": "caffe", "MobileNetV2": "tf", "DenseNet121": "torch", "EfficientNetB0": "none"},
    **{"ConvNeXtTiny": "none", "VGG16": "caffe"},
}


@pytest.mark.parametrize(("name", "right"), PUBLISHED.items())
def test_published_weights_need_the_published_normalisation(
    outcomes: dict[str, Any], name: str, right: str
) -> None:
    for normalise in ("none", "unit", "tf", "torch", "caffe"):
        published, mine, random = (
            outcomes["published"][f"{name} {weights} {normalise}"]
            for weights in ("imagenet", "mine.h5", "random")
        )
        assert random == "right"
        if normalise == right:
            assert (published, mine) == ("right", "right")
        else:
            assert f'{name} takes pixels as normalise = "{right}" makes them, by the rule' in published
            assert mine[0] == "warned"
            assert f'normalise = "{right}"' in mine[1]


def test_it_is_refused_before_anything_is_downloaded(outcomes: dict[str, Any]) -> None:
    assert 'ResNet50 takes pixels as normalise = "caffe" makes them' in outcomes["built"]
