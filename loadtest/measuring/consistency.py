"""What can only be judged across requests: the same label for the same picture, no id twice.

Owns that memory for one run, in the coordinator, through which all records pass.
"""

from typing import Final

from loadtest.sending.messages import OK, Record

CONTRADICTIONS: Final = frozenset({"duplicate id", "label changed", "wrong label"})
"""The outcomes of an answer that belongs to another request: worse than none."""


class Judge:
    """Sees every record once, in the order in which they ended."""

    def __init__(self) -> None:
        self.labels: dict[tuple[str, str], str] = {}
        """The first label of each (model, picture)."""
        self._ids: set[str] = set()

    def judge(self, record: Record) -> None:
        """Change the outcome of a record that contradicts an earlier one."""
        known = record.id in self._ids
        if record.id:
            self._ids.add(record.id)
        if record.outcome != OK:
            return
        if known:
            record.outcome, record.message = "duplicate id", record.id
            return
        first = self.labels.setdefault((record.model, record.picture), record.label)
        if record.label != first:
            record.outcome = "label changed"
            record.message = f"{record.picture}: {record.label}, not {first}"
