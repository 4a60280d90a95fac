"""An answer in a line of text, for people. Owns the wording of every task's answer."""

import json
from typing import Final

from clients.answers import Answer, Prediction

_SHOWN: Final = 5
"""So many predictions are written out; detectors and several labels may have many more."""


def row(name: str, width: int, answer: Answer) -> str:
    """The picture's name in a column, and its answer."""
    notice = f"  ({answer.notice})" if answer.notice else ""
    return f"{plain(name):<{width}}  {plain(text(answer) + notice)}"


def text(answer: Answer) -> str:
    """An answer's content in words."""
    if answer.error is not None:
        return f"failed: {answer.error.message}"
    parts = [_predictions(answer.predictions)] if answer.predictions else []
    if answer.values is not None:
        parts.append(", ".join(f"{label} {value:.4g}" for label, value in answer.values.items()))
    if answer.embedding is not None:
        parts.append(f"a vector of {len(answer.embedding)} numbers")
    if answer.image is not None:
        parts.append(f"a PNG of {len(answer.image)} bytes")
    for output, raw in (answer.outputs or {}).items():
        parts.append(f"{output} {'x'.join(map(str, raw.shape)) or 'scalar'}")
    if answer.result is not None:
        parts.append(json.dumps(answer.result, ensure_ascii=False))
    parts += [f"{step}: {text(each)}" for step, each in (answer.steps or {}).items()]
    return "; ".join(parts) or "nothing found"


def plain(written: str) -> str:
    """A text from outside as it may be written to a terminal: no control characters, one line."""
    printable = (c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in written)
    return "".join(printable).encode("utf-8", "replace").decode()


def _predictions(predictions: tuple[Prediction, ...]) -> str:
    shown = " | ".join(_prediction(each) for each in predictions[:_SHOWN])
    more = len(predictions) - _SHOWN
    return f"{shown} | and {more} more" if more > 0 else shown


def _prediction(prediction: Prediction) -> str:
    box = f" at {','.join(map(str, prediction.box))}" if prediction.box else ""
    steps = "; ".join(f"{step}: {text(each)}" for step, each in (prediction.steps or {}).items())
    return f"{prediction.label} {prediction.probability:.2f}{box}{f' [{steps}]' if steps else ''}"
