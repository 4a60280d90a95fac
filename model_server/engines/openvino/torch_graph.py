"""From a network of PyTorch to OpenVINO's graph, with PyTorch's own outputs as the reference.

Owns the translation, and what OpenVINO's front end can't translate. Runs only in conversion.py's child
process: it loads PyTorch, which a process that serves with OpenVINO never does.
"""

from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import served_outputs
from model_server.engines.check import drawn_pictures, final_operation
from model_server.engines.check.agreement import Reference
from model_server.engines.engine import NotConvertible
from model_server.engines.openvino import imported_graph, runtime
from model_server.engines.openvino.imported_graph import ImportedGraph
from model_server.engines.output_choice import OutputChoice
from model_server.engines.torch import network, sources


def read(
    spec: ModelSpec, prepared: NDArray[Any] | None = None
) -> tuple[ImportedGraph, Reference, OutputChoice]:
    """The graph of `spec`, PyTorch's outputs for the check's images, and the choice among the outputs.

    `prepared` are those images, if the model's own code prepares them.
    Raises ModelUnavailable; NotConvertible if only OpenVINO can't run it; MemoryError and OSError.
    """
    run = sources.load(spec, prepared)
    drawn = drawn_pictures.draw(spec.input) if prepared is None else prepared
    rows = [run.outputs(picture[None]) for picture in drawn]
    choice = served_outputs.choose(spec, run.names, [output.shape for output in rows[0]])
    try:
        translated, example = network.for_translation(run)
    except RuntimeError as error:  # of the network's own code, in Python
        raise _not_convertible(spec, error, is_lasting=not runtime.is_of_machine(error)) from error
    try:
        model = runtime.convert_torch(translated, example)
    except RuntimeError as error:
        raise _not_convertible(spec, error, is_lasting=runtime.is_of_network(error)) from error
    if len(model.outputs) != len(rows[0]):
        raise NotConvertible(
            f"{spec.name}: OpenVINO finds {len(model.outputs)} outputs in {spec.weights}, which has "
            f"{len(rows[0])}."
        )
    ending = final_operation.of_graph(model.output(choice.numbers[0]).get_node())
    reference = served_outputs.reference(spec, drawn, rows, choice, ending)
    if prepared is not None:
        return imported_graph.as_prepared(model, prepared.shape[1:]), reference, choice
    return ImportedGraph(model, "NCHW", None, takes_bytes=False, doubt=""), reference, choice


def _not_convertible(spec: ModelSpec, error: RuntimeError, *, is_lasting: bool) -> NotConvertible:
    reason = imported_graph.reason(error).removeprefix("-- ")
    return NotConvertible(
        f"{spec.name}: OpenVINO can't convert {spec.weights} ({reason}).", is_lasting=is_lasting
    )


def copied(graph: ImportedGraph) -> ImportedGraph:
    """A copy, which may be changed."""
    return replace(graph, model=graph.model.clone())
