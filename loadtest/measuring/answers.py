"""Whether an answer is right, as far as the answer itself shows.

Owns the shapes that an answer must have. What needs other answers to judge (the same label again, an id
seen before) is consistency.py's.
"""

from dataclasses import dataclass, field
from typing import Any, Final

import jmespath
import jmespath.exceptions
import msgspec

from loadtest.sending.messages import Target

_EXAMPLE_CHARACTERS: Final = 200
_LARGEST_VALUE: Final = 10**9


class WrongAnswer(Exception):
    """An answer that is not right. `kind` is counted, `message` is shown for the first of its kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(kind, message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """What a right answer said."""

    label: str = ""
    id: str = ""
    batch_size: int = 0
    stages_ms: dict[str, float] = field(default_factory=dict)


class Reader:
    """Reads the answers of one target."""

    def __init__(self, target: Target, counts: dict[str, tuple[int, int]]) -> None:
        self._check = target.check
        self._top = target.top
        self._counts = counts
        self._label = jmespath.compile(target.label) if target.label else None
        self._loads = msgspec.json.Decoder().decode

    def read(self, status: int, content: bytes, model: str) -> ServerAnswer:
        """Return what a right answer said; raise WrongAnswer for any other. `model` is the one asked for."""
        if self._check == "status":
            if 200 <= status < 300:
                return ServerAnswer()
            raise WrongAnswer(f"http {status}", _excerpt(content))
        body = self._body(content)
        if not 200 <= status < 300 or status == 202:
            raise _refusal(status, body, content)
        if body is None:
            raise WrongAnswer("bad answer: not JSON", _excerpt(content))
        if self._label is not None:
            return ServerAnswer(label=_label(self._label, body, content))
        return self._predictions(body, content, model)

    def location(self, status: int, content: bytes, location: str | None) -> str:
        """Return where an asynchronous job is polled; raise WrongAnswer when it was not accepted so."""
        if status != 202:
            raise _refusal(status, self._body(content), content)
        if not location:
            raise WrongAnswer("bad answer: 202 without Location", _excerpt(content))
        return location

    def _body(self, content: bytes) -> Any:  # noqa: ANN401 - any JSON
        try:
            return self._loads(content)
        except (ValueError, RecursionError):  # msgspec's own, and UnicodeDecodeError
            return None

    def _predictions(self, body: Any, content: bytes, model: str) -> ServerAnswer:  # noqa: ANN401 - any JSON
        match body:
            case {
                "success": True,
                "model": str(served),
                "id": str(id_),
                "predictions": list(predictions),
            } if id_:
                if model and served != model:
                    raise WrongAnswer("bad answer: another model's", f"{served}, not {model}")
                self._check_predictions(served, predictions)
            case _:
                raise WrongAnswer("bad answer: wrong shape", _excerpt(content))
        timings, size = body.get("timings_ms"), body.get("batch_size")
        return ServerAnswer(
            # A detector that found nothing is right: its label is that there is none.
            label=str(predictions[0]["label"]) if predictions else "(nothing)",
            id=id_,
            batch_size=size if _is_number(size) and isinstance(size, int) else 0,
            stages_ms={name: float(ms) for name, ms in timings.items() if _is_number(ms)}
            if isinstance(timings, dict)
            else {},
        )

    def _check_predictions(self, served: str, predictions: list[Any]) -> None:
        """Well-formed, the most probable (or the largest) first, and as many as the model gives."""
        previous = 1.0
        for item in predictions:
            match item:
                case {"label": str(), "class_id": str(), "probability": float(p), "area": float(area)} if (
                    0 <= p <= 1 and 0 <= area <= previous
                ):
                    previous = area
                case {"label": str(), "class_id": str(), "probability": float(p)} if 0 <= p <= previous:
                    previous = p
                case _:
                    raise WrongAnswer("bad answer: malformed or unsorted predictions", str(item))
            match item:
                case {"box": [int() | float(), int() | float(), int() | float(), int() | float()]}:
                    pass
                case {"box": _}:
                    raise WrongAnswer("bad answer: malformed box", str(item))
        least, most = self._counts.get(served, (1, self._top or len(predictions)))
        if not least <= len(predictions) <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise WrongAnswer("bad answer: wrong number of predictions", f"{len(predictions)}, not {wanted}")


def _is_number(value: object) -> bool:
    """A number that can be meant: what a server tells of itself must not stop us."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _LARGEST_VALUE


def _label(expression: Any, body: Any, content: bytes) -> str:  # noqa: ANN401 - any JSON
    """A text or number as it is; of a list of numbers (scores) the index of the largest."""
    try:
        found = expression.search(body)
    except jmespath.exceptions.JMESPathError as error:  # such as max() of what is no list
        raise WrongAnswer("bad answer: no label where --label says", str(error)) from error
    match found:
        case str() | int():
            return str(found)
        case [int() | float(), *_] if all(isinstance(score, int | float) for score in found):
            return str(max(range(len(found)), key=found.__getitem__))
    raise WrongAnswer("bad answer: no label where --label says", _excerpt(content))


def _refusal(status: int, body: Any, content: bytes) -> WrongAnswer:  # noqa: ANN401 - any JSON
    match body:
        case {"error": {"code": str(code), "message": str(message)}}:
            return WrongAnswer(f"http {status} {code}", message)
    return WrongAnswer(f"http {status}", _excerpt(content))


def _excerpt(content: bytes) -> str:
    return content[:_EXAMPLE_CHARACTERS].decode("utf-8", "replace")
