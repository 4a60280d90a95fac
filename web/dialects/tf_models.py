"""What TensorFlow Serving's REST and its gRPC have in common: versions with their states, and one signature.

Owns what a model is to both: tf_serving.py and web/rpc write it in JSON and in messages.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from broker.errors import ClientError, ServiceError
from broker.messages import Result, WorkerState
from broker.registry import ModelView
from web.dialects import model_versions
from web.dialects.named_outputs import OutputSignature
from web.errors import NotFound
from web.jobs import JobClient
from web.keys import access
from web.uploads.parameters import MAX_PICTURES

SIGNATURE: Final = "serving_default"
"""The one signature of every model."""

METHOD: Final = "tensorflow/serving/predict"
"""What that signature is of."""

PICTURES: Final = OutputSignature("DT_STRING", (-1,))
"""The one input of every model."""

_State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]

_STATES: Final[dict[WorkerState, _State]] = {
    WorkerState.READY: "AVAILABLE",
    WorkerState.LOADING: "LOADING",
    WorkerState.DRAINING: "UNLOADING",
    WorkerState.FAILED: "END",
}
"""The best first: of several workers of a version the best one's counts."""


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """A version of a model, and its state."""

    number: int
    state: _State
    problem: str | None = None
    """Why it is not available; None where it is, or will be."""


def versions(
    jobs: JobClient, model: str, *, version: str = "", label: str = ""
) -> tuple[ModelView | None, list[KnownVersion]]:
    """A model, if it was announced, and those of its versions that are asked for, the newest first.

    Raises UnknownModel, NotFound, Forbidden.
    """
    access.require_model(model)
    view = jobs.registry.models(fresh=True).get(model)
    if view is None:
        jobs.models.require(model)
        found = []
    else:
        model_versions.require(view, label=label)
        # One without a worker where it was the last that there was.
        newest = view.card.model_version
        found = list(dict.fromkeys([newest, *(state.version for state in view.states.values())]))
        found = found[:1] if label else found
    if version:
        found = [each for each in found if model_versions.is_same(version, each)]
        if not found:
            raise NotFound(f"{model} has no version {version[:60]!r}. Leave it out to see those that it has.")
    return view, [_known(view, each) for each in found] if view else []


def _known(view: ModelView, version: str) -> KnownVersion:
    """The state of a version: that of the best of its workers."""
    workers = [state for state in view.states.values() if state.version == version]
    best = min(workers, key=lambda state: list(_STATES).index(state.state), default=None)
    number = model_versions.number(version)
    if best is None:
        return KnownVersion(number, "END", "No model server serves it.")
    problem = best.reason if best.state is WorkerState.FAILED else None
    return KnownVersion(number, _STATES[best.state], problem)


def described(jobs: JobClient, model: str, *, version: str = "", label: str = "") -> ModelView:
    """The model whose signature is asked for. Raises as model_versions.serving does."""
    access.require_model(model)
    view = jobs.registry.models(fresh=True).get(model) or jobs.models.named(model)
    model_versions.require(view, version=version, label=label)
    return view


def require_signature(name: str) -> None:
    """Raise ClientError for a signature that no model has."""
    if name not in ("", SIGNATURE):
        raise ClientError(f"The one signature of every model is {SIGNATURE!r}; leave signature_name out.")


def require_count(pictures: int) -> None:
    """Raise ClientError where a request has none, or too many."""
    if not 1 <= pictures <= MAX_PICTURES:
        raise ClientError(f"The request has {pictures} pictures; it may have from 1 to {MAX_PICTURES}.")


def good(outcomes: Iterable[Result | ServiceError], view: ModelView, *, version: str) -> list[Result]:
    """The results of all pictures. Raises the first failure: the answer has no place for one of several."""
    results: list[Result] = []
    for number, result in enumerate(outcomes):
        if isinstance(result, ClientError):  # 400, whatever is wrong with it, as TensorFlow Serving has it
            raise ClientError(f"Picture {number}: {result.message}")
        if isinstance(result, ServiceError):
            raise result
        results.append(result)
    if version:
        model_versions.require_same(results, view)
    return results
