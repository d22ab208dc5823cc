"""What people decided about images: the lines of labels/review.csv, applied to the manifest."""

import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc

from imagemill.errors import ReviewError, UnknownNameError
from imagemill.ingest.summary import ReviewSummary, Tally
from imagemill.records import REVIEW

HEADER = ("key", "sha256", "action", "label", "reviewer", "date", "note")
ACTIONS = ("relabel", "drop", "keep")
_UNLABELLED = "unlabelled"


class Decision(NamedTuple):
    """One line: it counts for the image with these bytes only."""

    line: int
    sha256: str
    action: str
    label: str


class Reviews:
    """All decisions, and how many of them met their image.

    Args:
        digest: sha256 of the file; None if there is none.
        decisions: By key; of several for the same image the last line counts.
    """

    def __init__(self, digest: str | None, decisions: dict[str, list[Decision]]) -> None:
        self._digest = digest
        self._decisions = decisions
        self._keys = pa.array(list(decisions), pa.string())
        self._met: set[str] = set()
        self._num_applied = self._num_stale = 0

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the decisions; without the file there are none.

        Raises:
            ReviewError: a line does not say what it must.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return cls(None, {})
        decisions: dict[str, list[Decision]] = {}
        for key, decision in _lines(content):
            others = [d for d in decisions.get(key, ()) if d.sha256 != decision.sha256]
            decisions[key] = [*others, decision]
        return cls(hashlib.sha256(content).hexdigest(), decisions)

    def applied(self, table: pa.Table, tally: Tally) -> pa.Table:
        """Rows of the manifest with the decisions about them.

        Args:
            table: Rows with their digests.
            tally: Counts what the decisions change.

        Raises:
            UnknownNameError: a label that no image of the source has.
        """
        concerned = pc.is_in(table["key"], value_set=self._keys)
        rows = pc.indices_nonzero(concerned).to_pylist() if self._decisions else []
        if not rows:
            return table
        names = ("target", "split", "review")
        columns = {name: table[name].to_pylist() for name in names}
        for row in rows:
            decision = self._about(table["key"][row].as_py(), table["sha256"][row].as_py())
            if decision is not None:
                before = {name: columns[name][row] for name in names}
                after = _decided(before, decision, tally)
                tally.move(before, after)
                for name in names:
                    columns[name][row] = after[name]
        for name, values in columns.items():
            position = table.schema.get_field_index(name)
            table = table.set_column(position, name, pa.array(values, pa.string()))
        return table

    def _about(self, key: str, sha256: str) -> Decision | None:
        self._met.add(key)
        found = [d for d in self._decisions[key] if d.sha256 == sha256]
        self._num_applied += len(found)
        self._num_stale += len(self._decisions[key]) - len(found)
        return found[0] if found else None

    def summary(self) -> ReviewSummary:
        """How many decisions met their image, another image, or none."""
        num_unknown = sum(len(d) for key, d in self._decisions.items() if key not in self._met)
        return ReviewSummary(
            sha256=self._digest,
            num_applied=self._num_applied,
            num_stale=self._num_stale,
            num_unknown=num_unknown,
        )


def _decided(
    before: dict[str, str | None], decision: Decision, tally: Tally
) -> dict[str, str | None]:
    after = {**before, "review": decision.action}
    if decision.action != "relabel":
        return after
    if decision.label not in tally.class_names:
        kind = f"class (line {decision.line} of {REVIEW})"
        raise UnknownNameError(kind, decision.label, tally.class_names)
    after["target"] = decision.label
    if before["split"] == _UNLABELLED:
        after["split"] = None
    return after


# Reading -------------------------------------------------------------------------------------


def _lines(content: bytes) -> Iterator[tuple[str, Decision]]:
    try:
        rows = csv.reader(content.decode("utf-8-sig").splitlines(), strict=True)
        for number, row in enumerate(rows, start=1):
            if number == 1:
                _check_header(row)
            elif any(row):
                yield _checked(row, number)
    except UnicodeDecodeError:
        raise ReviewError(f"{REVIEW} is not UTF-8 text; save it as such") from None
    except csv.Error as error:
        raise ReviewError(f"{REVIEW} is no CSV file: {error}") from None


def _check_header(row: list[str]) -> None:
    if tuple(row) != HEADER:
        raise ReviewError(f"{REVIEW} begins with {','.join(row)!r}; expected {','.join(HEADER)!r}")


def _checked(row: list[str], number: int) -> tuple[str, Decision]:
    where = f"line {number} of {REVIEW}"
    if len(row) != len(HEADER):
        raise ReviewError(f"{where} has {len(row)} fields, expected {len(HEADER)}")
    key, sha256, action, label = row[:4]
    if action not in ACTIONS:
        raise UnknownNameError(f"action ({where})", action, ACTIONS)
    if not key or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise ReviewError(f"{where} needs a key and the sha256 of its image, got {sha256!r}")
    if (action == "relabel") != bool(label):
        expected = "the new label" if action == "relabel" else "no label"
        raise ReviewError(f"{where} says {action}: expected {expected}, got {label!r}")
    return key, Decision(number, sha256, action, label)
