"""From a network that OpenVINO reads to the files that are served: uint8 pictures in, probabilities out.

Owns what is put before and after the network, and the reference that it is checked against at each start:
the graph as its file has it, one picture at a time, with the normalisation done by NumPy. It is computed in
fp32, and in int8 for a quantised file that is served in int8. Runs only in conversion.py's process.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from broker.errors import ModelUnavailable
from model_server.catalogue import detection_layout
from model_server.catalogue.detection_layout import Detection
from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import Outputs, normalisation
from model_server.engines.check import agreement, drawn_pictures, final_operation
from model_server.engines.check.agreement import Reference
from model_server.engines.openvino import imported_graph, runtime
from model_server.engines.openvino.engine import CompiledNetwork
from model_server.engines.openvino.imported_graph import ImportedGraph
from model_server.engines.openvino.store import StoreEntry, write_reference

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChosenOutputs:
    """Which of a network's outputs are served."""

    outputs: list[int]
    is_of_second: bool = False
    """A number for a picture: see check.is_of_second."""


def write(spec: ModelSpec, folder: Path, *, half: bool, in_int8: bool = False) -> None:
    """Write the network of `spec` and its reference into an entry's folder. Raises ModelUnavailable."""
    precision = "int8" if in_int8 else "fp32"
    reference, kept = _reference(spec, precision)
    write_reference(folder, reference)
    served = _served(spec, reference, kept, lambda model: _run(model, folder, precision, reference.pictures))
    runtime.save_model(served, StoreEntry(folder).network, compress_to_fp16=half)


def _reference(spec: ModelSpec, precision: str) -> tuple[Reference, ChosenOutputs]:
    """What the graph gives for the check's pictures, and which of its outputs are kept."""
    graph = imported_graph.read(spec)
    if graph.doubt:
        _LOG.warning("%s: %s", spec.name, graph.doubt)
    graph.reshape(spec, batch=1)
    try:
        run = runtime.compile_for_cpu(graph.model, precision)
        drawn = drawn_pictures.draw(spec.input)
        rows = [list(run([_given(spec, graph, picture[None])]).values()) for picture in drawn]
    except RuntimeError as error:  # whatever OpenVINO's C++ raises
        raise ModelUnavailable(
            f"{spec.name}: OpenVINO can't run it: {imported_graph.reason(error)}."
        ) from error
    kept = _kept(spec, graph, [each.shape for each in rows[0]])
    found = [np.concatenate([np.asarray(row[at], np.float32) for row in rows]) for at in kept.outputs]
    if spec.task == "classification":
        numbers = found[0].reshape(len(drawn), -1)
        agreement.require_logits(
            spec, numbers, final_operation.of_graph(graph.model.output(kept.outputs[0]).get_node())
        )
        found = [_activated(spec, numbers)]
        if kept.is_of_second:
            found = [np.concatenate([1 - found[0], found[0]], axis=1)]
        agreement.require_probabilities(spec, found[0])
    return Reference(drawn, tuple(found)), kept


def _given(spec: ModelSpec, graph: ImportedGraph, picture: NDArray[np.uint8]) -> NDArray[Any]:
    """A picture as the network takes it, by NumPy."""
    if graph.takes_bytes:
        given: NDArray[Any] = picture[..., ::-1] if normalisation.of(spec).is_bgr else picture
    else:
        given = normalisation.of(spec)(picture)
        if graph.quantised is not None:
            given = graph.quantised.integers(given)
    ordered = given if graph.layout == "NHWC" else given.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(ordered.astype(graph.dtype))


def _kept(spec: ModelSpec, graph: ImportedGraph, shapes: list[tuple[int, ...]]) -> ChosenOutputs:
    """Which outputs are served: of a classifier the first that has a number for each label.

    Of a detector those that its model.toml names, in the order of Detection.outputs.
    """
    if spec.detection is not None:
        return ChosenOutputs(_kept_of_detector(spec, spec.detection, graph, shapes))
    labels = len(spec.labels)
    fitting = [at for at, shape in enumerate(shapes) if shape[:1] == (1,) and math.prod(shape) == labels]
    if fitting:
        return ChosenOutputs(fitting[:1])
    of_second = [at for at, shape in enumerate(shapes) if agreement.is_of_second(spec, shape)]
    if of_second:
        return ChosenOutputs(of_second[:1], is_of_second=True)
    told = " and ".join(str(shape[1:] if shape[:1] == (1,) else shape) for shape in shapes)
    raise ModelUnavailable(
        f"{spec.name}: the network's output for a picture is {told}, but there are {labels} labels. The file "
        "of labels needs one for each number (some networks begin with a class for the background)."
        + ' A network that gives boxes is task = "detection".'
        * (len(shapes[0]) == 3 or len(shapes) > 1)
    )


def _kept_of_detector(
    spec: ModelSpec, detection: Detection, graph: ImportedGraph, shapes: list[tuple[int, ...]]
) -> list[int]:
    names = [sorted(output.names) for output in graph.model.outputs]
    kept = []
    for wanted in detection.outputs:
        at = [at for at, known in enumerate(names) if wanted == at or wanted in known]
        if not at:
            there = "; ".join(f"{at}: {', '.join(known)} {shapes[at]}" for at, known in enumerate(names))
            cure = ""
            if len(shapes) == 1:
                rows = 4 + len(spec.labels)
                cure = (
                    f' A detector of one output ({rows}, n) is layout = "ultralytics"; a classifier is '
                    'task = "classification".'
                )
            raise ModelUnavailable(
                f"{spec.name}: the network has no output {wanted!r}; it has {there}.{cure}"
            )
        kept += at[:1]
    problem = detection_layout.misfit(detection, [shapes[at][1:] for at in kept], len(spec.labels))
    if problem:
        raise ModelUnavailable(f"{spec.name}: {problem}.")
    return kept


def _activated(spec: ModelSpec, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    if spec.activation == "none":
        return numbers
    wide = numbers.astype(np.float64)
    if spec.activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-wide)), np.float32)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _served(spec: ModelSpec, reference: Reference, kept: ChosenOutputs, run: Callable[[Any], Outputs]) -> Any:  # noqa: ANN401
    """The first graph that is right: of any number of pictures, of any after mending, or of one by one."""
    problems = []
    for is_freed, batch in ((False, -1), (True, -1), (False, 1)):
        try:
            graph = imported_graph.read(spec)
            if is_freed:
                graph.free_batch()
            graph.reshape(spec, batch=batch)
            served = _with_pictures(spec, graph, _with_outputs(spec, graph, kept))
            # By fp32's tolerance in int8 too: integers add up to the same whatever the number of pictures.
            verdict = agreement.judge(spec, reference.outputs, run(served), "fp32")
        except (RuntimeError, ValueError, ModelUnavailable) as error:
            problems.append(imported_graph.reason(error))
            continue
        if verdict.agrees:
            return served
        problems.append(str(verdict))
    told = "; then: ".join(dict.fromkeys(problems))
    raise ModelUnavailable(f"{spec.name}: the network can't be run with pictures as its input ({told}).")


def _run(model: Any, folder: Path, precision: str, pictures: NDArray[np.uint8]) -> Outputs:  # noqa: ANN401
    """What a graph gives when it is served from a file, gone afterwards. Raises what running it raises."""
    probe = folder / "probe.xml"
    try:
        runtime.save_model(model, probe, compress_to_fp16=False)
        return CompiledNetwork(probe, precision).predict(pictures)
    finally:
        for each in probe.parent.glob("probe.*"):
            each.unlink()


def _with_outputs(spec: ModelSpec, graph: ImportedGraph, kept: ChosenOutputs) -> Any:  # noqa: ANN401
    """An openvino.Model with the outputs that are kept, made probabilities where model.toml says how."""
    operations = runtime.operations()
    outputs = [graph.model.output(at).get_node().input_value(0) for at in kept.outputs]
    if spec.task == "classification":
        shape = operations.constant(np.array([0, -1]))
        outputs = [operations.reshape(each, shape, special_zero=True).output(0) for each in outputs]
    outputs = [operations.convert(each, "f32").output(0) for each in outputs]
    match spec.activation:
        case "softmax":
            outputs = [operations.softmax(each, 1).output(0) for each in outputs]
        case "sigmoid":
            outputs = [operations.sigmoid(each).output(0) for each in outputs]
    if kept.is_of_second:
        rest = operations.subtract(operations.constant(np.float32(1)), outputs[0]).output(0)
        outputs = [operations.concat([rest, outputs[0]], 1).output(0)]
    return runtime.Model(outputs, graph.model.get_parameters(), spec.name)


def _with_pictures(spec: ModelSpec, graph: ImportedGraph, model: Any) -> Any:  # noqa: ANN401
    """The model with uint8 pictures as its input: channels, normalisation and layout go into the graph."""
    numbers = normalisation.of(spec)
    prepared = runtime.preprocessor(model)
    picture = prepared.input()
    picture.tensor().set_element_type(runtime.Type.u8)
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
    return prepared.build()
