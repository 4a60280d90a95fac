"""An ONNX network in a session: pixels of jobs in, the numbers of its outputs as arrays.

Owns how pixels become what the network takes, and every message about a network that takes something else.
engine.py owns the sizes of batches, and what becomes of the outputs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue import file_kinds
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import normalisation
from model_server.engines.onnxruntime import pixels_graph, runtime
from model_server.engines.onnxruntime.providers import ON_CPU, Provider
from model_server.engines.onnxruntime.runtime import InputDescription, ProviderUnavailable, Session
from pictures import fixed_point

_FLOATS: Final = ("float32", "float16", "float64")


class OnnxNetwork:
    """One network of a single input, for pictures as jobs have them, or as hooks.py makes them."""

    def __init__(
        self,
        spec: ModelSpec,
        path: Path,
        provider: Provider,
        threads: int,
        prepared: NDArray[Any] | None,
        *,
        is_plain: bool = False,
    ) -> None:
        """Read it. Raises ModelUnavailable.

        `is_plain`: one operation after the other as the file has them, with NumPy in front. `prepared` are
        the check's pictures, if the model's own code prepares them.
        """
        self._spec = spec
        self._session = _opened(spec, path, provider, threads, is_plain=is_plain)
        self.outputs = self._session.outputs
        """The names of all its outputs."""
        self.input = _only_input(spec, self._session)
        self.batch = self.input.shape[0] if self.input.shape else None
        """How many pictures it takes; None: any number."""
        self._prepare = self._preparation(provider, threads, prepared, is_plain=is_plain)

    @property
    def of_picture(self) -> tuple[int, ...]:
        """The shape of what it takes for one picture."""
        return self._taken

    def rows(self, picture: NDArray[Any]) -> list[NDArray[np.float32]]:
        """All outputs for one picture, while it is loaded. Raises ModelUnavailable."""
        most = self.batch or 1
        try:
            outputs = self.run(np.concatenate([picture[None]] * most), self.outputs)
        except runtime.ERRORS as error:
            sizes = " x ".join(map(str, (most, *self._taken)))
            raise ModelUnavailable(
                f"{self._spec.name}: ONNX Runtime can't run it on {sizes} numbers "
                f"({runtime.reason(error)}). Correct width, height and channels in model.toml, or export the "
                "network so that it takes a batch of pictures."
            ) from error
        return [output[:1] if output.shape[:1] == (most,) else output for output in outputs]

    def run(self, batch: NDArray[Any], outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """These outputs for a batch, in one call. Raises runtime.ERRORS."""
        arrays = self._session.run(self._prepare(batch), outputs)
        return [np.asarray(array, np.float32) for array in arrays]

    def _preparation(
        self, provider: Provider, threads: int, prepared: NDArray[Any] | None, *, is_plain: bool
    ) -> Callable[[NDArray[Any]], Any]:
        """What makes a batch of pictures the network's input."""
        spec, dtype = self._spec, self.input.dtype
        if prepared is not None:
            self._taken = prepared.shape[1:]
            self._require_prepared()
            return lambda batch: batch.astype(dtype, copy=False)
        layout = _layout(spec, self.input)
        height, width, channels = spec.input.network_shape
        self._taken = (height, width, channels) if layout == "NHWC" else (channels, height, width)
        _require_numbers(spec, dtype)
        if is_plain:
            return lambda batch: _by_numpy(spec, batch, layout, dtype)
        graph = pixels_graph.build(
            spec.input.network_shape,
            normalisation.of(spec),
            pixels="float32" if spec.input.keeps_fractions and dtype != "uint8" else "uint8",
            takes=dtype,
            layout=layout,
        )
        pixels = _started(spec, graph, provider.for_pixels, threads)
        return lambda batch: pixels.on_device(_pixels(spec, batch, dtype))

    def _require_prepared(self) -> None:
        takes = self.input.shape
        if len(takes) != len(self._taken) + 1 or not _is_compatible(takes[1:], self._taken):
            raise ModelUnavailable(
                f"{self._spec.name}: preprocess in hooks.py returns {self._taken} for a picture, but the "
                f"network takes {_shown(takes)}, batch first."
            )


def _opened(spec: ModelSpec, path: Path, provider: Provider, threads: int, *, is_plain: bool) -> Session:
    try:
        return _started(spec, path, provider, threads, is_plain=is_plain)
    except runtime.ERRORS as error:
        raise ModelUnavailable(
            f"{spec.name}: ONNX Runtime can't read {path.name}: {runtime.reason(error)}."
            f"{file_kinds.hint(path, spec.source, within=spec.folder)}"
        ) from error


def _started(
    spec: ModelSpec, graph: Path | bytes, provider: Provider, threads: int, *, is_plain: bool = False
) -> Session:
    """A session; on the CPU it may raise runtime.ERRORS, which are the graph's."""
    try:
        return Session(graph, provider, threads=threads, is_plain=is_plain)
    except ProviderUnavailable as error:
        raise ModelUnavailable(
            f"{spec.name}: ONNX Runtime could not start the provider that ONNXRUNTIME_PROVIDER asks for, and "
            f"{error}: its log says which library is missing. Nothing falls back to the CPU; "
            "ONNXRUNTIME_PROVIDER=cpu asks for it."
        ) from error
    except runtime.ERRORS as error:
        if provider == ON_CPU:
            raise
        raise ModelUnavailable(  # the CPU has read it for the reference
            f"{spec.name}: ONNX Runtime can't run {spec.weights} with {provider.name}: "
            f"{runtime.reason(error)}. ONNXRUNTIME_PROVIDER=cpu runs it."
        ) from error


def _only_input(spec: ModelSpec, session: Session) -> InputDescription:
    if len(session.inputs) != 1:
        names = ", ".join(sorted(each.name for each in session.inputs))
        raise ModelUnavailable(
            f"{spec.name}: the network has {len(session.inputs)} inputs ({names}). Export it again with the "
            "picture as its only input."
        )
    return session.inputs[0]


def _layout(spec: ModelSpec, taken: InputDescription) -> str:
    """NCHW or NHWC: the layout that the network's shape allows; if both, the usual one."""
    height, width, channels = spec.input.network_shape
    sizes = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    # A file may leave its input's rank open as well.
    if not taken.shape:
        return "NCHW"
    for layout, each in sizes.items():
        if len(taken.shape) == 4 and _is_compatible(taken.shape[1:], each):
            return layout
    usual, other = ([-1, *each] for each in sizes.values())
    raise ModelUnavailable(
        f"{spec.name}: the network takes {_shown(taken.shape)}, but model.toml says pictures of {width} x "
        f"{height} with {channels} channels: {usual} or {other}, batch first."
    )


def _require_numbers(spec: ModelSpec, dtype: str) -> None:
    """Raise ModelUnavailable unless the network takes real numbers, or bytes that nothing normalises."""
    if dtype in _FLOATS or (dtype == "uint8" and spec.normalise == "none"):
        return
    if dtype == "uint8":
        raise ModelUnavailable(
            f"{spec.name}: the network takes bytes, 0 to 255, and normalises them itself. Write "
            'normalise = "none" in [input] of model.toml in place of the present normalise (and of its mean '
            "and std, if it has them)."
        )
    raise ModelUnavailable(
        f"{spec.name}: the network takes pixels as {dtype}, which is not supported. Export it again with an "
        "input of float32 or uint8."
    )


def _pixels(spec: ModelSpec, batch: NDArray[Any], dtype: str) -> NDArray[Any]:
    """A job's bytes as the graph in front takes them."""
    if not spec.input.keeps_fractions:
        return batch
    return fixed_point.rounded(batch) if dtype == "uint8" else fixed_point.joined(batch)


def _by_numpy(spec: ModelSpec, batch: NDArray[Any], layout: str, dtype: str) -> NDArray[Any]:
    """The same as the graph in front, for the reference."""
    numbers: NDArray[Any]
    if dtype == "uint8":
        pixels = _pixels(spec, batch, dtype)
        numbers = pixels[..., ::-1] if normalisation.of(spec).is_bgr else pixels
    else:
        numbers = normalisation.of(spec)(batch)
    ordered = numbers.transpose(0, 3, 1, 2) if layout == "NCHW" else numbers
    return np.ascontiguousarray(ordered.astype(dtype))


def _is_compatible(takes: Sequence[int | None], shape: Sequence[int]) -> bool:
    return all(size in (None, given) for size, given in zip(takes, shape, strict=True))


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ",".join("?" if size is None else str(size) for size in shape) + "]"
