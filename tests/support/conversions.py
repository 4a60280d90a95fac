"""Converts a model's network before a model server that is a real process needs it.

A server's own conversion loads TensorFlow for four seconds of a core; this one is by a process that has it
already. Must not be used by a test of how a model server converts: that has an empty CACHE_DIR.
"""

from pathlib import Path
from unittest import mock

from model_server.catalogue.model_spec import read_model
from model_server.engines.choice import choose_for
from model_server.engines.openvino import conversion
from model_server.engines.openvino.store import Store
from tests.support import ROOT, keras_fork

CACHE = ROOT / "var" / "engines"
"""CACHE_DIR where a test does not set it."""


def convert(models: Path, name: str, cache: Path = CACHE, *, precision: str = "auto") -> dict[str, str]:
    """Put the network of `name` into `cache`, a CACHE_DIR. Returns settings with which a server looks for it.

    `auto` is resolved here, for it goes by a measurement: a server's own may find another precision.
    """
    spec = read_model(models, name)
    precision = choose_for(spec, "openvino", precision, keras_backend="tensorflow").precision
    with mock.patch.object(conversion, "subprocess", keras_fork.CONVERSIONS):
        conversion.converted(spec, conversion.width_of(precision), Store(cache))
    return {"ENGINE": "openvino", "PRECISION": precision, "CACHE_DIR": str(cache)}
