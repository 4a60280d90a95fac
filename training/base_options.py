"""What the user says of the base, and what of it can be refused before a network is loaded.

Owns the words of those refusals. Loads no Keras.
"""

from dataclasses import dataclass
from pathlib import Path

from broker.messages import Fit
from model_server.catalogue.model_spec import CatalogueError, ModelSpec, read_model
from model_server.catalogue.model_toml import NormalisationName


class BaseError(ValueError):
    """The base can't be loaded or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class BaseOptions:
    """What the user says of the base; None: as the base has it."""

    name: str
    weights: str
    """`imagenet`, `none` or a path."""
    size: int | None = None
    fit: Fit | None = None
    normalise: NormalisationName | None = None


def refuse_early(wanted: BaseOptions) -> None:
    """Raise BaseError if the weights are missing, or if nothing says how they want images normalised."""
    if wanted.weights in ("imagenet", "none"):
        return
    path = Path(wanted.weights)
    if not path.is_file():
        raise BaseError(
            f"--weights {wanted.weights}: no such file. Use imagenet (downloaded), none (to train from "
            "scratch), or the path of a .keras or a notop .h5"
        )
    if path.suffix == ".keras" and wanted.normalise is None and toml_beside(path) is None:
        raise BaseError(f"no model.toml beside {path} says how its pictures are normalised: set --normalise")


def toml_beside(path: Path) -> ModelSpec | None:
    """The model whose network a .keras is, if it lies in a model's folder."""
    folder = path.resolve().parent
    try:
        return read_model(folder.parent, folder.name)
    except CatalogueError:
        return None
