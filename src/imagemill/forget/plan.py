"""Everything that holds an image, or learned from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from imagemill import records
from imagemill.errors import SourceError
from imagemill.records import REVIEW
from imagemill.trace import ImageTrace, Known, trace


@dataclass(frozen=True)
class Plan:
    """What goes, and what has to be made anew."""

    image: ImageTrace
    same_bytes: tuple[str, ...]  # every key with these bytes, the image's own among them
    near: tuple[str, ...]  # keys of images that look nearly the same; they stay
    num_neighbours: int  # images in the shard that is written again

    @property
    def learned(self) -> tuple[Known, ...]:
        """Models that learned from it or were chosen by it."""
        return self.image.models if self.image.role in ("trained on", "chosen on") else ()

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        image = self.image
        lines = [f"{image.key}, sha256 {image.raw.sha256}"]
        lines += [f"{REVIEW}: a line `drop` for {key}" for key in self.same_bytes]
        if image.place:
            others = self.num_neighbours - 1
            lines.append(f"shard: {image.place.shard} is written again, with {others} other images")
        else:
            lines.append(f"shard: it is in none ({image.set_aside})")
        lines.append(f"copies: {len(image.children)} are made no more")
        lines += [f"train anew: {model}, {image.role} it" for model in self.learned]
        if image.role == "measured on":
            lines += [f"measure anew: {model}" for model in image.models]
        lines += [f"nearly the same, and stays: {key}" for key in self.near]
        lines += [
            f"yours to delete: {image.raw.shard} in the source",
            "yours to delete: copies on DVC remotes, in stores and backups; versions whose files "
            "you want gone",
        ]
        return lines


def plan_forgetting(root: Path, name: str, registered: Sequence[Known]) -> Plan:
    """What an image's removal touches; nothing is changed.

    Args:
        root: The project's root.
        name: Its key or its file.
        registered: What the registry holds.

    Raises:
        SourceError: the name is not that of an image.
        UnknownNameError: nothing goes by this name.
    """
    found = trace(root, name, registered)
    if not isinstance(found, ImageTrace):
        raise SourceError(f"{name} is a {found.kind}: expected the key or the file of an image")
    if found.parent is not None:
        found = trace(root, found.parent, registered)
        assert isinstance(found, ImageTrace)
    rows = _rows(root / records.MANIFEST, "sha256", found.raw.sha256)
    shard = found.place.shard if found.place else None
    neighbours = _rows(root / records.SHARD_INDEX, "shard", shard) if shard else []
    return Plan(
        image=found,
        same_bytes=tuple(sorted(row["key"] for row in rows)),
        near=_near(root, found.key),
        num_neighbours=len(neighbours),
    )


def _near(root: Path, key: str) -> tuple[str, ...]:
    own = _rows(root / records.KEEP, "key", key)
    group = own[0]["near_group"] if own else None
    rows = _rows(root / records.KEEP, "near_group", group) if group else []
    return tuple(sorted(row["key"] for row in rows if row["key"] != key))


def _rows(path: Path, column: str, value: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path, filters=[(column, "==", value)]).to_pylist()
    return rows
