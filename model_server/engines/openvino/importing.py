"""From a network that OpenVINO reads to the files that are served: uint8 images in, probabilities out.

Owns what is added before and after the network, and the reference that it is checked against at each start:
the graph as in its file, one image at a time, with the normalisation done by NumPy. The reference is computed
in fp32, or in int8 for a quantised file that is served in int8; that of a network of PyTorch by PyTorch
(torch_graph.py). Runs only in conversion.py's child process.
"""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import normalisation, served_outputs
from model_server.engines.check import drawn_pictures, final_operation
from model_server.engines.check.agreement import Reference
from model_server.engines.engine import NotConvertible, Outputs
from model_server.engines.openvino import imported_graph, runtime
from model_server.engines.openvino.compiled_network import CompiledNetwork
from model_server.engines.openvino.imported_graph import ImportedGraph
from model_server.engines.openvino.store import StoreEntry, write_reference
from model_server.engines.output_choice import OutputChoice
from model_server.engines.torch import sources
from pictures import fixed_point

_LOG = logging.getLogger(__name__)


class _NoCorrectModel(ModelUnavailable):
    """No way to run the network with pictures gives its own answers. `is_lasting`: see NotConvertible."""

    def __init__(self, message: str, *, is_lasting: bool) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


def write(
    spec: ModelSpec,
    folder: Path,
    *,
    half: bool,
    in_int8: bool = False,
    prepared: NDArray[Any] | None = None,
) -> None:
    """Write the network of `spec` and its reference into an entry's folder.

    `prepared` are the check's pictures, if the model's own code prepares them. Raises ModelUnavailable;
    NotConvertible if PyTorch can run the network all the same.
    """
    precision = "int8" if in_int8 else "fp32"
    read: Callable[[], ImportedGraph] = partial(imported_graph.read, spec, prepared)
    if spec.is_torch:
        # Imported here, because it loads PyTorch.
        with sources.installed(spec):
            from model_server.engines.openvino import torch_graph  # noqa: PLC0415

        graph, reference, choice = torch_graph.read(spec, prepared)
        read = partial(torch_graph.copied, graph)
    else:
        reference, choice = _reference(spec, precision, prepared)
    write_reference(folder, reference)
    try:
        model = _correct_model(
            spec,
            read,
            reference,
            choice,
            prepared,
            lambda trial: _run(trial, folder, precision, reference.pictures),
        )
    except _NoCorrectModel as error:
        if spec.is_torch:  # PyTorch has run it for the reference
            raise NotConvertible(error.message, is_lasting=error.is_lasting) from error
        raise
    runtime.save_model(model, StoreEntry(folder).network, compress_to_fp16=half)


def _reference(
    spec: ModelSpec, precision: str, prepared: NDArray[Any] | None
) -> tuple[Reference, OutputChoice]:
    """The graph's outputs for the check's images, and the choice among its outputs."""
    graph = imported_graph.read(spec, prepared)
    if graph.doubt:
        _LOG.warning("%s: %s", spec.name, graph.doubt)
    graph.reshape(spec, batch=1)
    own = "fp32" if precision == "int8" else graph.own_precision
    try:
        run = runtime.compile_for_cpu(graph.model, precision)
        drawn = drawn_pictures.draw(spec.input) if prepared is None else prepared
        rows = [list(run([_prepared(spec, graph, picture[None])]).values()) for picture in drawn]
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't run it: {imported_graph.reason(error)}."
        ) from error
    names = [output.names for output in graph.model.outputs]
    choice = served_outputs.choose(spec, names, [output.shape for output in rows[0]])
    ending = final_operation.of_graph(graph.model.output(choice.numbers[0]).get_node())
    return served_outputs.reference(spec, drawn, rows, choice, ending, own=own), choice


def _prepared(spec: ModelSpec, graph: ImportedGraph, picture: NDArray[np.uint8]) -> NDArray[Any]:
    """An image as the network takes it, prepared by NumPy."""
    if graph.layout == imported_graph.AS_PREPARED:
        return np.ascontiguousarray(picture.astype(graph.dtype))
    if graph.takes_bytes:
        pixels = fixed_point.rounded(picture) if spec.input.keeps_fractions else picture
        numbers: NDArray[Any] = pixels[..., ::-1] if normalisation.of(spec).is_bgr else pixels
    else:
        numbers = normalisation.of(spec)(picture)
        if graph.quantised is not None:
            numbers = graph.quantised.integers(numbers)
    ordered = numbers if graph.layout != "NCHW" else numbers.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(ordered.astype(graph.dtype))


def _correct_model(
    spec: ModelSpec,
    read: Callable[[], ImportedGraph],
    reference: Reference,
    choice: OutputChoice,
    prepared: NDArray[Any] | None,
    run: Callable[[Any], Outputs],
) -> Any:  # noqa: ANN401
    """The first correct model: for any number of images, then with freed reshapes, then for one image."""
    problems: list[str] = []
    is_lasting = True
    for is_freed, batch in ((False, -1), (True, -1), (False, 1)):
        try:
            graph = read()
            if is_freed:
                graph.free_batch()
            graph.reshape(spec, batch=batch)
            model = _with_outputs(spec, graph, choice)
            if prepared is None:
                model = _with_pictures(spec, graph, model)
            else:
                model = _with_type(model, prepared.dtype)
            # As for fp32 in int8 as well: sums of integers do not depend on the number of images.
            verdict = spec.task.compare(spec, reference.outputs, run(model), reference.precision)
        except (RuntimeError, ValueError, ModelUnavailable) as error:
            problems.append(imported_graph.reason(error))
            is_lasting = is_lasting and runtime.is_of_network(error)
            continue
        if verdict.agrees:
            return model
        problems.append(str(verdict))
    attempts = "; then: ".join(dict.fromkeys(problems))
    raise _NoCorrectModel(
        f"{spec.name}: the network can't be run with pictures as its input ({attempts}).",
        is_lasting=is_lasting,
    )


def _run(model: Any, folder: Path, precision: str, pictures: NDArray[np.uint8]) -> Outputs:  # noqa: ANN401
    """A graph's outputs when it is served from a temporary file. Raises whatever running it raises."""
    probe = folder / "probe.xml"
    try:
        runtime.save_model(model, probe, compress_to_fp16=False)
        return CompiledNetwork(probe, precision).predict(pictures)
    finally:
        for file in probe.parent.glob("probe.*"):
            file.unlink()


def _with_outputs(spec: ModelSpec, graph: ImportedGraph, choice: OutputChoice) -> Any:  # noqa: ANN401
    """An openvino.Model with the chosen outputs, and the activation of model.toml."""
    operations = runtime.operations()
    outputs = [graph.model.output(at).get_node().input_value(0) for at in choice.numbers]
    if spec.task.gives_probabilities:
        shape = operations.constant(np.array([0, -1]))
        outputs = [operations.reshape(each, shape, special_zero=True).output(0) for each in outputs]
    outputs = [operations.convert(each, "f32").output(0) for each in outputs]
    match spec.activation:
        case "softmax":
            outputs = [operations.softmax(each, 1).output(0) for each in outputs]
        case "sigmoid":
            outputs = [operations.sigmoid(each).output(0) for each in outputs]
    if choice.is_of_second:
        rest = operations.subtract(operations.constant(np.float32(1)), outputs[0]).output(0)
        outputs = [operations.concat([rest, outputs[0]], 1).output(0)]
    return runtime.Model(outputs, graph.model.get_parameters(), spec.name)


def _with_type(model: Any, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401
    """The model with arrays as its input that the model's own code has prepared, in their own type."""
    prepared = runtime.preprocessor(model)
    prepared.input().tensor().set_element_type(runtime.Type(dtype))
    return prepared.build()


def _with_pictures(spec: ModelSpec, graph: ImportedGraph, model: Any) -> Any:  # noqa: ANN401
    """The model with uint8 images as its input: channels, normalisation and layout go into the graph."""
    numbers = normalisation.of(spec)
    prepared = runtime.preprocessor(model)
    picture = prepared.input()
    has_floats = spec.input.keeps_fractions and not graph.takes_bytes
    picture.tensor().set_element_type(runtime.Type.f32 if has_floats else runtime.Type.u8)
    picture.tensor().set_layout(runtime.Layout("NHWC"))
    picture.model().set_layout(runtime.Layout(graph.layout))
    steps = picture.preprocess()
    if numbers.is_bgr:
        steps.reverse_channels()
    if not graph.takes_bytes:
        steps.convert_element_type(runtime.Type.f32)
        steps.mean(list(numbers.mean)).scale(list(numbers.std))
    quantised = None if graph.takes_bytes else graph.quantised
    if quantised is not None:
        steps.mean([-quantised.zero * quantised.step] * len(numbers.mean))
        steps.scale([quantised.step] * len(numbers.mean))
        operations = runtime.operations()
        bounds = (quantised.low, quantised.high)
        steps.custom(lambda each: operations.clamp(operations.round(each, "half_to_even"), *bounds).output(0))
    built = prepared.build()
    return _with_planes(built, rounds=graph.takes_bytes) if spec.input.keeps_fractions else built


def _with_planes(model: Any, *, rounds: bool) -> Any:  # noqa: ANN401
    """The model with a job's two planes for each channel as its input, in place of their values."""
    operations = runtime.operations()
    values = model.get_parameters()[0]
    batch, *sides, channels = values.get_partial_shape()
    planes = operations.parameter(
        runtime.PartialShape([batch, *sides, 2 * channels.get_length()]), np.uint8, name="planes"
    )
    halves = operations.split(planes, 3, 2).outputs()
    joined = fixed_point.value(*(operations.convert(half, "f32") for half in halves))
    if rounds:
        whole = operations.clamp(operations.round(joined, "half_to_even"), 0, 255)
        joined = operations.convert(whole, "u8")
    for taker in values.output(0).get_target_inputs():
        taker.replace_source_output(joined.output(0))
    return runtime.Model(model.get_results(), [planes], model.get_friendly_name())
