"""The first weights of the network of photos, and what is kept of a network that has learnt.

TensorFlow is only ever loaded by a process of its own.
"""

from typing import Final

import pytest

from tests.support import keras_fork

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


_BEGUN: Final = """
import numpy
from training import small_network

rng = numpy.random.default_rng(0)
light = rng.normal(size=(64, 1, 1, 1)) + 0.3 * rng.normal(size=(64, 32, 32, 3))
pictures = light.astype("float32")
model = small_network.network(learning=True)
small_network.begin(model, pictures)

patches = model.layers[1](pictures).numpy()
shown = patches.reshape(-1, 24)[:, :12].astype("float64")
numpy.testing.assert_allclose(shown.T @ shown / len(shown), numpy.eye(12), atol=0.03)
numpy.testing.assert_allclose(patches[..., :12], -patches[..., 12:], atol=1e-5)
assert not model.layers[1].trainable

second = next(layer for layer in model.layers[2:] if "conv" in layer.name)
passed = second(patches).numpy()
numpy.testing.assert_allclose(passed[..., :24], patches, atol=1e-5)
assert abs(passed[..., 24:]).max() > 0.01

for layer in model.layers:
    if "batch" in layer.name:
        shape = layer.get_weights()[0].shape
        layer.set_weights([rng.uniform(0.5, 1.5, shape).astype("float32") for _ in range(3)])
wanted = model(pictures).numpy()
assert wanted.std() > 0.01, wanted.std()
assert wanted.max() < 0.9, wanted.max()
served = small_network.plain(model)
numpy.testing.assert_allclose(served(pictures).numpy(), wanted, atol=1e-5)
both = small_network.both_ways(served)(pictures).numpy()
numpy.testing.assert_allclose(small_network.both_ways(served)(pictures[:, :, ::-1]).numpy(), both, atol=1e-5)
assert abs(both - wanted).max() > 3e-5, abs(both - wanted).max()
print("as it should be")
"""


def test_its_first_weights_whiten_and_pass_on_and_what_it_learnt_is_kept() -> None:
    done = keras_fork.run(["-c", _BEGUN])
    assert done.stdout == "as it should be\n", done.stderr[-2000:]
