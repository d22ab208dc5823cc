"""The history of promotions: tags of the registered model, mirrored in reports/promotions.jsonl.

The registry is the one that counts: a line that is lost from the file is written again from it.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imagemill.records import REPORTS, Record, write_bytes

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

PROMOTION = REPORTS / "promotion.json"
PROMOTIONS = REPORTS / "promotions.jsonl"
_TAG = "promotion."


class Promotion(Record):
    """One move of the champion, or one that was refused (reports/promotion.json)."""

    kind: Literal["promotion", "rollback", "refusal"]
    at: str  # ISO 8601, UTC
    by: str
    why: str | None  # in their own words
    reasons: list[str]  # of the policy, one a gate
    from_version: int | None
    from_variant: str | None
    to_version: int
    to_variant: str
    aliases_before: dict[str, int]
    aliases_after: dict[str, int]
    test: dict[str, float | None]  # top-1 on test of both, stated and never read: {from, to}

    def __str__(self) -> str:
        came = f"version {self.from_version} ({self.from_variant})"
        source = came if self.from_version is not None else "nobody"
        said = f": {self.why}" if self.why else ""
        return (
            f"{self.at} {self.kind} by {self.by}, from {source} to version {self.to_version} "
            f"({self.to_variant}){said}"
        )


def read_history(store: "Store") -> list[Promotion]:
    """Every promotion and rollback, oldest first."""
    tags = store.model_tags()
    names = sorted(name for name in tags if name.startswith(_TAG))
    return [Promotion.model_validate_json(tags[name]) for name in names]


def write_down(root: Path, store: "Store", promotion: Promotion) -> None:
    """Add a move to the history, once: writing it again changes nothing."""
    history = read_history(store)
    if promotion not in history:
        store.tag_model(f"{_TAG}{len(history) + 1:06}", promotion.model_dump_json())
        history.append(promotion)
    store.tag_version(
        promotion.to_version,
        {
            "promoted_at": promotion.at,
            "promoted_by": promotion.by,
            "promoted_from": str(promotion.from_version),
        },
    )
    promotion.write(root / PROMOTION)
    _mirror(root, history)


def _mirror(root: Path, history: Sequence[Promotion]) -> None:
    lines = [json.dumps(entry.model_dump(mode="json"), sort_keys=True) for entry in history]
    write_bytes(root / PROMOTIONS, "".join(f"{line}\n" for line in lines).encode())


def last_standing(history: Sequence[Promotion]) -> Promotion | None:
    """The promotion a rollback takes back: the newest that was not taken back yet."""
    standing: list[Promotion] = []
    for entry in history:
        if entry.kind == "promotion":
            standing.append(entry)
        elif standing:
            standing.pop()
    return standing[-1] if standing else None
