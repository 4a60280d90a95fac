"""The version of a model that a request names, as other protocols spell versions.

Owns the spellings, and the promise that an answer is of the version that was named. Which versions there are
is the registry's to say.
"""

from collections.abc import Iterable
from typing import Final

from broker.errors import NoWorker
from broker.messages import Result
from broker.registry import ModelView
from web.errors import NotFound
from web.jobs import JobClient

LATEST: Final = "latest"
"""The one label that there is: the version that new pictures go to."""

_HEX: Final = 16
_LETTERS: Final = 60


def number(version: str) -> int:
    """A version as a number, for protocols that have no others: its hexadecimal digits, read as one.

    Twelve digits are below 2 ** 48, which JavaScript's numbers hold too.
    """
    try:
        return int(version, _HEX)
    except ValueError:  # of a model server that names versions otherwise
        return int.from_bytes(version.encode())


def is_same(spelling: str, version: str) -> bool:
    """Whether a client's spelling means this version: as /models has it, or as a number."""
    return spelling in (version, str(number(version)))


def serving(jobs: JobClient, model: str, *, version: str = "", label: str = "") -> ModelView:
    """The model of this name, able to answer, if it serves this version; without one any will do.

    Raises NotFound, UnknownModel, NoWorker, ModelUnavailable.
    """
    view = jobs.models.named(model)
    require(view, version=version, label=label)
    return view


def require(view: ModelView, *, version: str = "", label: str = "") -> None:
    """Raise NotFound unless new pictures of the model go to this version."""
    served = view.card.model_version
    if label not in ("", LATEST):
        raise NotFound(f"{view.card.model} has no label {label[:_LETTERS]!r}: the only one is {LATEST}.")
    if version and not is_same(version, served):
        raise NotFound(
            f"{view.card.model} does not serve version {version[:_LETTERS]!r}. It serves {number(served)} "
            f"({served}); leave the version out to ask the newest."
        )


def require_same(results: Iterable[Result], view: ModelView) -> None:
    """Raise NoWorker where an answer is of another version than `view`, while one replaces the other."""
    if any(result.model_version != view.card.model_version for result in results):
        raise NoWorker(
            f"Another version of {view.card.model} answered, while one replaces the other: send it again."
        )
