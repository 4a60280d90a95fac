"""An engine with the functions of a model's hooks.py around it.

Owns where own code sits: preprocess before the network, postprocess in place of the task's reading. hooks/
owns the process in which it runs, python.py the network that hooks.py itself makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from broker.messages import Prediction, TaskResult
from model_server.catalogue.model_toml import OwnNetwork
from model_server.engines import normalisation
from model_server.engines.check import drawn_pictures
from model_server.engines.engine import Engine, EngineOptions
from model_server.engines.python import PythonNetwork
from model_server.hooks.own_code import HookFailed, OwnCode
from pictures import rle

if TYPE_CHECKING:
    from model_server.catalogue.model_spec import ModelSpec
    from model_server.engines.engine import Outputs
    from model_server.tasks.task import ReadOptions

_MOST_PREDICTIONS: Final = 1_000


class HookedEngine:
    """A network and its own code. `prepare` a picture, `predict` prepared ones, `read` what comes out."""

    def __init__(
        self, spec: ModelSpec, network: Engine, code: OwnCode, prepared: NDArray[Any] | None = None
    ) -> None:
        """`prepared` are the check's pictures as preprocess makes them, if there is one."""
        self._spec = spec
        self.network = network
        self._code = code
        self.name = network.name
        self.precision = network.precision
        self.outputs = network.outputs
        self.prepares = prepared is not None
        self._takes = None if prepared is None else (prepared.shape[1:], prepared.dtype.name)
        self.limits_itself = isinstance(network, PythonNetwork)
        """Whether its calls end in time by themselves."""

    def prepare(self, picture: NDArray[np.uint8]) -> NDArray[Any]:
        """What the network takes for a picture. Raises HookFailed."""
        if not self.prepares:
            return picture
        array = self._code.preprocess(normalisation.pixels(self._spec, picture))
        if (array.shape, array.dtype.name) != self._takes:
            self._code.report("preprocess", f"it returned {array.shape} of {array.dtype}, not {self._takes}")
            raise HookFailed
        return array

    def predict(self, batch: NDArray[Any]) -> Outputs:
        """See Engine.predict, of prepared pictures."""
        return self.network.predict(batch)

    def read(self, outputs: Outputs, spec: ModelSpec, options: ReadOptions) -> TaskResult:
        """A picture's answer: as postprocess reads the outputs, else the task. Raises InferenceFailed."""
        if "postprocess" not in self._code.names:
            return spec.task.read(outputs, spec, options)
        names = options.names or tuple(str(number) for number in range(len(outputs)))
        context = {"original_size": options.original_size, "top": options.top}
        answer = self._code.postprocess(dict(zip(names, outputs, strict=True)), context)
        predictions = answer.pop("predictions", [])
        try:
            checked = _predictions(predictions, options.original_size)
        except ValueError as error:
            self._code.report("postprocess", f"its predictions are not this service's: {error}")
            raise HookFailed from None
        return TaskResult(checked, result=answer or None)

    def close(self) -> None:
        """End the process of its own code."""
        self._code.close()


def load(
    spec: ModelSpec, options: EngineOptions, network: Callable[[NDArray[Any] | None], Engine]
) -> HookedEngine:
    """Start the model's own code and load its `network`. Raises ModelUnavailable.

    `network` is called with what preprocess makes of the check's pictures, or None if there is no preprocess.
    """
    code = OwnCode(spec, options.hooks)
    try:
        _require_known(spec, code)
        if isinstance(spec.source, OwnNetwork):
            return HookedEngine(spec, PythonNetwork(spec, code, options.batch_size), code)
        prepared = _prepared(spec, code) if "preprocess" in code.names else None
        return HookedEngine(spec, network(prepared), code, prepared)
    except BaseException:
        code.close()
        raise


def _require_known(spec: ModelSpec, code: OwnCode) -> None:
    """Raise ModelUnavailable unless hooks.py defines what the model needs, in plain sight."""
    names = set(code.names)
    is_python = isinstance(spec.source, OwnNetwork)
    if spec.hooks is None or names != spec.hooks.names:
        problem = "must define its functions, or import them by name, at its top level"
    elif not names:
        problem = "defines neither preprocess nor postprocess nor load"
    elif is_python and "load" not in names:
        problem = 'has no load, which kind = "python" needs'
    elif is_python and "preprocess" in names:
        problem = "has a preprocess, but the predict that load returns gets the pixels as they are"
    elif "load" in names and not is_python:
        problem = 'has a load, which is for kind = "python" in [source] of model.toml'
    else:
        return
    raise ModelUnavailable(f"{spec.name}: hooks.py {problem}. docs/hooks.md has examples.")


def _prepared(spec: ModelSpec, code: OwnCode) -> NDArray[Any]:
    """The check's pictures as preprocess makes them: their shape and type are those of every picture."""
    try:
        drawn = normalisation.pixels(spec, drawn_pictures.draw(spec.input))
        arrays = [code.preprocess(picture, warms_up=True) for picture in drawn]
    except HookFailed:
        raise ModelUnavailable(
            f"{spec.name}: preprocess in hooks.py failed on a picture of {spec.input.network_shape} (height, "
            "width, channels). The model server's log has its traceback."
        ) from None
    kinds = {(array.shape, array.dtype.name) for array in arrays}
    if len(kinds) > 1:
        listed = " and ".join(f"{shape} of {dtype}" for shape, dtype in sorted(kinds)[:2])
        raise ModelUnavailable(
            f"{spec.name}: preprocess must return arrays of one shape and type, not {listed}."
        )
    return np.stack(arrays)


def _predictions(given: object, size: tuple[int, int]) -> tuple[Prediction, ...]:
    """Predictions of postprocess, best first as they are given. Raises ValueError."""
    predictions = msgspec.convert(given, tuple[Prediction, ...])
    if len(predictions) > _MOST_PREDICTIONS:
        raise ValueError(f"there are more than {_MOST_PREDICTIONS:,}")
    for prediction in predictions:
        _require_drawable(prediction, size)
        if not 0 <= prediction.probability <= 1:
            raise ValueError(f"a probability is {prediction.probability}")
        if prediction.box is not None:
            x, y, width, height = prediction.box
            if min(x, y) < 0 or min(width, height) < 1 or x + width > size[0] or y + height > size[1]:
                raise ValueError(f"the box {prediction.box} does not lie in the picture of {size}")
    return predictions


def _require_drawable(prediction: Prediction, size: tuple[int, int]) -> None:
    """Raise ValueError for a mask or an area that the web tier could not show."""
    if prediction.area is not None and not 0 <= prediction.area <= 1:
        raise ValueError(f"an area is {prediction.area}")
    mask = prediction.mask
    if mask is None:
        return
    width, height = rle.size_of(size)
    if mask.png or mask.form != "rle" or mask.size[0] > height or mask.size[1] > width:
        raise ValueError(f"a mask must be run lengths of at most {height} x {width} pixels")
    rle.decode(mask)
