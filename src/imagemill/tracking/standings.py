"""Registered versions as the rules of `promote` see them: from tags and metrics, not from files."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from imagemill.errors import IntegrityError, UnknownNameError
from imagemill.promote import Candidate, Gain
from imagemill.tracking.entries import Version

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

_ADDRESS = re.compile(r"models:/[^/@]+[/@](?P<name>[^/@]+)")
_NEEDED = (
    *("val_top1", "val_top1_ci95_low", "val_top1_ci95_high"),
    *("latency_ms_p50", "size_bytes"),
)


def find_version(store: "Store", name: str) -> Version:
    """The version somebody names.

    Args:
        store: Where to look.
        name: A number, an alias, a variant (its newest version), or `models:/NAME/...`.

    Raises:
        UnknownNameError: there is none, or its files are gone.
    """
    match = _ADDRESS.fullmatch(name)
    wanted = match["name"] if match else name
    versions = store.find_versions({})
    named = {version.tags["variant"]: version for version in reversed(versions)}
    named |= {str(version.number): version for version in versions}
    named |= store.aliases()
    if wanted not in named:
        raise UnknownNameError("version, alias or variant", wanted, named)
    return named[wanted]


def standing_of(store: "Store", version: Version) -> Candidate:
    """What the registry knows about a version.

    Raises:
        IntegrityError: its run lacks a figure every evaluation has.
    """
    figures = store.figures(version)
    missing = [name for name in _NEEDED if name not in figures]
    if missing:
        raise IntegrityError(
            f"the run of version {version.number} has no metric {missing[0]}; `imagemill register` "
            "writes it for what is in models/ and reports/evaluate"
        )
    parent = version.tags.get("parent_version")
    return Candidate(
        variant=version.tags["variant"],
        version=version.number,
        verdict=version.tags["verdict"],
        val_top1=figures["val_top1"],
        val_top1_low=figures["val_top1_ci95_low"],
        val_top1_high=figures["val_top1_ci95_high"],
        latency_ms=figures["latency_ms_p50"],
        size_bytes=int(figures["size_bytes"]),
        data_digest=version.tags["data_digest"],
        parent_version=int(parent) if parent else None,
        gain_over_parent=_paired(figures),
        worst_class_recall=figures.get("val_worst_class_recall"),
        ece=figures.get("val_ece"),
        relative_corruption_error=figures.get("relative_corruption_error"),
    )


def _paired(figures: Mapping[str, float]) -> Gain | None:
    names = ("delta_top1", "delta_ci95_low", "delta_ci95_high")
    values = [figures.get(f"val_paired_{name}") for name in names]
    if any(value is None for value in values):
        return None
    value, low, high = (float(value) for value in values if value is not None)
    return Gain(value, low, high)
