"""What the protocol tells of the service and of its models: metadata, configuration, statistics.

Owns these answers and their names of types. Waits for nobody and asks no model.
Sources: kserve/open-inference-protocol, inference_rest.md; Triton's extension_model_configuration.md and
extension_statistics.md, as perf_analyzer and tritonclient read them.
"""

from collections.abc import Sequence
from typing import Any, Final

from broker.messages import Label, WorkerState
from broker.registry import ModelView
from web.dialects import model_versions
from web.dialects.open_inference.infer import INPUT, input_of, outputs_of
from web.dialects.open_inference.tensors import BYTES
from web.responses import VERSION
from web.uploads.parameters import MAX_PICTURES

PLATFORM: Final = "batchwire"

EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "statistics",
)

_MEASURED: Final = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def server() -> dict[str, Any]:
    """The service."""
    return {"name": PLATFORM, "version": VERSION, "extensions": [*EXTENSIONS]}


def model(view: ModelView, labels: Sequence[Label]) -> dict[str, Any]:
    """A model's metadata; its labels, in their order, stand in the parameters of its first output."""
    card = view.card
    datatype, shape = input_of(card)
    outputs: list[dict[str, Any]] = [
        {"name": name, "datatype": kind, "shape": [-1, *sides]}
        for name, (kind, sides) in outputs_of(card).told(card).items()
    ]
    if labels:
        outputs[0]["parameters"] = {"labels": [label.label for label in labels]}
    return {
        "name": card.model,
        "versions": [card.model_version],
        "platform": f"{PLATFORM}_{card.engine}",
        "inputs": [{"name": INPUT, "datatype": datatype, "shape": [-1, *shape]}],
        "outputs": outputs,
    }


def config(view: ModelView) -> dict[str, Any]:
    """A model's configuration as Triton has it; what perf_analyzer and Triton's examples look at."""
    card = view.card
    datatype, dims = input_of(card)
    return {
        "name": card.model,
        "platform": f"{PLATFORM}_{card.engine}",
        "backend": "",
        "max_batch_size": MAX_PICTURES,
        "input": [
            {
                "name": INPUT,
                "data_type": _triton_type(datatype),
                "format": "FORMAT_NONE" if datatype == BYTES else "FORMAT_NHWC",
                "dims": dims,
                "optional": False,
            }
        ],
        "output": [
            {
                "name": name,
                "data_type": _triton_type(kind),
                "dims": shape,
                "label_filename": "",
            }
            for name, (kind, shape) in outputs_of(card).told(card).items()
        ],
        "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 0},
    }


def _triton_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == BYTES else f"TYPE_{datatype}"


def statistics(view: ModelView) -> dict[str, Any]:
    """How many pictures have been answered since the live workers started; times are not counted, and 0.

    The version is a number here: perf_analyzer reads it as one, and ends where it can't.
    """
    pictures = sum(state.pictures for state in view.states.values())
    measured = {name: {"count": 0 if name == "fail" else pictures, "ns": 0} for name in _MEASURED}
    return {
        "name": view.card.model,
        "version": str(model_versions.number(view.card.model_version)),
        "last_inference": 0,
        "inference_count": pictures,
        "execution_count": pictures,
        "inference_stats": measured | {name: {"count": 0, "ns": 0} for name in ("cache_hit", "cache_miss")},
        "batch_stats": [],
    }


def indexed(view: ModelView) -> dict[str, Any]:
    """A model in the index of Triton's model repository."""
    is_ready = view.state is WorkerState.READY
    return {
        "name": view.card.model,
        "version": view.card.model_version,
        "state": "READY" if is_ready else "UNAVAILABLE",
        "reason": "" if is_ready else view.reason,
    }
