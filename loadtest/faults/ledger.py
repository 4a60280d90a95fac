"""The ledger: a file with one line of JSON for every request, and the proof that it adds up.

Owns the file's format: a header line that says what was sent, then records and strikes in the order in which
they ended, then a closing line. A ledger without its closing line was cut off.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from loadtest.faults.attribution import Aftermath
from loadtest.measuring.consistency import CONTRADICTIONS, Judge
from loadtest.measuring.figures import FaultAccount, Strike
from loadtest.sending.messages import INTERRUPTED, OK, Record

FORMAT: Final = "load test ledger 1"

_SHOWN: Final = 5


class LedgerError(Exception):
    """The file is no ledger; the text says why."""


class Line(Record, kw_only=True):
    """A record in the file; its times are seconds from the run's start."""

    point: int


class Ledger:
    """Writes the ledger of one run."""

    def __init__(self, file: BinaryIO, *, start: float, target: str) -> None:
        self._file = file
        self._start = start
        self._encode = msgspec.json.Encoder().encode
        self._write({"format": FORMAT, "target": target, "started_at": datetime.now(UTC).isoformat()})

    def add(self, point: int, record: Record) -> None:
        """Write one record."""
        fields = {name: getattr(record, name) for name in Record.__struct_fields__}
        for name in ("due", "sent", "ended"):
            if fields[name] is not None:
                fields[name] = round(fields[name] - self._start, 6)
        self._write(Line(point=point, **fields))

    def add_strike(self, strike: Strike) -> None:
        """Write one strike of a fault."""
        self._write(strike.since(self._start))

    def close(self, begun: list[list[int]]) -> None:
        """Write the closing line: how many requests each client process began, point by point."""
        self._write(Closing(begun))
        self._file.close()

    def _write(self, line: object) -> None:
        self._file.write(self._encode(line) + b"\n")


class Closing(msgspec.Struct):
    """The last line: for each point the number of requests that each client process began."""

    begun: list[list[int]]


@dataclass
class Account:
    """What a ledger adds up to."""

    requests: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    """Everything that breaks the rule of one right outcome for every request, in words."""
    labels: dict[tuple[str, str], str] = field(default_factory=dict)
    """What each (model, picture) was answered."""
    faults: FaultAccount | None = None
    """What became of the requests of each fault; None where none struck."""
    strikes: list[Strike] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether every request has exactly one outcome, and every right one the right label."""
        return not self.wrong


def check(path: Path, expected: dict[tuple[str, str], str]) -> Account:
    """Read a ledger and prove it: numbers without a gap, one outcome each, ids unique, labels right.

    `expected` holds labels by (model, picture); without any, the same picture must have the same label.
    Raises LedgerError for a file that is none, or that was cut off.
    """
    account = Account()
    judge = Judge()
    account.labels = judge.labels
    aftermath = Aftermath()
    strikes = account.strikes
    seen: defaultdict[int, set[int]] = defaultdict(set)
    closing: Closing | None = None
    for line in _lines(path):
        if closing is not None:
            raise LedgerError(f"{path} continues after its closing line")
        if isinstance(line, Closing):
            closing = line
        elif isinstance(line, Strike):
            strikes.append(line)
        else:
            _account_for(account, line, seen[line.point], judge, expected)
            aftermath.add(line.point, line)
    if closing is None:
        raise LedgerError(f"{path} has no closing line: the load test was cut short")
    for point in sorted(seen.keys() | set(range(len(closing.begun)))):
        begun = closing.begun[point] if 0 <= point < len(closing.begun) else []
        numbers = {
            n for share, of in enumerate(begun) for n in range(share, share + of * len(begun), len(begun))
        }
        _complain(account, f"point {point}: no outcome for request", numbers - seen[point])
        _complain(account, f"point {point}: an outcome for no request", seen[point] - numbers)
    if strikes:
        faults = list(dict.fromkeys(strike.fault for strike in strikes))
        account.faults = aftermath.account(faults, strikes, sum(map(sum, closing.begun)))
    return account


def _lines(path: Path) -> Iterator[Line | Strike | Closing]:
    decoders: dict[bytes, Callable[[bytes], Closing | Strike]] = {
        b'{"begun":': msgspec.json.Decoder(Closing).decode,
        b'{"fault":': msgspec.json.Decoder(Strike).decode,
    }
    usual: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline())
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise LedgerError(f"{path} is not a ledger of this load tester")
            for line in file:
                yield (decoders.get(line[:9]) or usual)(line)
    except (OSError, ValueError) as error:  # msgspec's own, and UnicodeDecodeError
        raise LedgerError(f"{path} can't be read as a ledger: {error}") from error


def _account_for(
    account: Account,
    record: Line,
    numbers: set[int],
    judge: Judge,
    expected: dict[tuple[str, str], str],
) -> None:
    account.requests += 1
    name = f"request {record.number} of point {record.point} ({record.picture})"
    if record.number in numbers:
        account.wrong.append(f"{name} has two outcomes")
    numbers.add(record.number)
    judge.judge(record)
    account.outcomes[record.outcome] += 1
    wanted = expected.get((record.model, record.picture), expected.get(("", record.picture)))
    if record.outcome in CONTRADICTIONS:
        account.wrong.append(f"{name}: {record.outcome}: {record.message}")
    elif record.outcome == OK and expected and record.label != wanted:
        account.wrong.append(f"{name} was answered {record.label}, not {wanted}")
    elif record.outcome == INTERRUPTED:
        account.wrong.append(f"{name} was interrupted")


def _complain(account: Account, text: str, numbers: set[int]) -> None:
    if numbers:
        shown = ", ".join(map(str, sorted(numbers)[:_SHOWN]))
        more = f" and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else ""
        account.wrong.append(f"{text} {shown}{more}")
