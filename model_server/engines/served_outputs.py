"""The numbers that a network's chosen outputs become, by NumPy, and the reference made from them.

Owns those numbers. output_choice.py owns the choice; an engine says what its network's outputs hold.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model_server.catalogue.model_spec import ModelSpec
from model_server.engines import output_choice
from model_server.engines.check import agreement
from model_server.engines.check.agreement import Reference
from model_server.engines.check.final_operation import Ending
from model_server.engines.engine import Outputs
from model_server.engines.output_choice import NetworkOutput, OutputChoice


def choose(
    spec: ModelSpec, names: Sequence[Collection[str]], shapes: Sequence[tuple[int, ...]]
) -> OutputChoice:
    """Choose the outputs to serve; see `named`. Raises ModelUnavailable."""
    return output_choice.choose(spec, named(names, shapes))


def named(names: Sequence[Collection[str]], shapes: Sequence[tuple[int, ...]]) -> list[NetworkOutput]:
    """A network's outputs; one that its file gives no name is called by its number.

    `names` and `shapes` are those of each output, for one image.
    """
    counts = Counter(name for known in names for name in known)

    def unique(number: int, known: Collection[str]) -> tuple[str, ...]:
        # A tuple within a dict has one name for all: each of them gets its number.
        return tuple(name if counts[name] == 1 else f"{name}:{number}" for name in sorted(known))

    return [
        NetworkOutput(unique(number, known) or (str(number),), shape)
        for number, (known, shape) in enumerate(zip(names, shapes, strict=True))
    ]


def reference(
    spec: ModelSpec,
    pictures: NDArray[np.uint8],
    rows: Sequence[Sequence[NDArray[Any]]],
    choice: OutputChoice,
    ending: Ending,
    *,
    own: str = "fp32",
) -> Reference:
    """The reference from `rows`: all outputs, for one image or a few at a time.

    `ending` is that of the first chosen output, `own` the precision that the file itself computes in. Raises
    ModelUnavailable if a classifier's numbers do not become probabilities as model.toml says.
    """
    outputs = [np.concatenate([np.asarray(row[at], np.float32) for row in rows]) for at in choice.numbers]
    if spec.task.gives_probabilities:
        agreement.require_logits(spec, outputs[0].reshape(len(pictures), -1), ending)
    served = activated(spec, choice, outputs)
    if spec.task.gives_probabilities:
        agreement.require_probabilities(spec, served[0])
    else:
        agreement.require_finite(spec, served)
    return Reference(pictures, served, choice.names, own)


def activated(spec: ModelSpec, choice: OutputChoice, outputs: Sequence[NDArray[np.float32]]) -> Outputs:
    """The chosen outputs as they are served: a classifier's flattened, with the activation of model.toml."""
    if not spec.task.gives_probabilities:
        return tuple(outputs)
    numbers = _activated(spec, outputs[0].reshape(len(outputs[0]), -1))
    return (np.concatenate([1 - numbers, numbers], axis=1) if choice.is_of_second else numbers,)


def _activated(spec: ModelSpec, numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    if spec.activation == "none":
        return numbers
    wide = numbers.astype(np.float64)
    if spec.activation == "sigmoid":
        return np.asarray(1 / (1 + np.exp(-wide)), np.float32)
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
