"""VERDICTS: whether a variant earns its place, decided on val, size and latency.

A variant is rejected if it is not smaller or not faster than its parent, dominated if another is at
least as good in everything and better in something, accepted otherwise. An ensemble is larger and
slower by nature: it is rejected if it is not right more often.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

Verdict = Literal["base", "accepted", "dominated", "rejected"]

# Two latencies that differ by less are a tie: so far do medians of the same net, measured twice on
# a busy machine, lie apart.
TIE = 0.05


class Standing(NamedTuple):
    """What a verdict looks at."""

    variant: str
    parent: str | None
    val_top1: float
    latency_ms: float
    size_bytes: int
    energy_joules: float | None = None  # of a thousand images; None: unknown, and no matter
    is_ensemble: bool = False


def dominators(standings: Sequence[Standing]) -> dict[str, list[str]]:
    """Of each variant those that are at least as good in everything and better in something.

    Nobody dominates those on the Pareto front.

    Args:
        standings: All variants.
    """
    return {
        standing.variant: [rival.variant for rival in standings if _dominates(rival, standing)]
        for standing in standings
    }


def judge(standings: Sequence[Standing]) -> dict[str, tuple[Verdict, str]]:
    """Verdict and reason of each variant.

    Args:
        standings: The base (which has no parent) and its descendants.
    """
    by_name = {standing.variant: standing for standing in standings}
    verdicts: dict[str, tuple[Verdict, str]] = {}
    for standing in standings:
        parent = by_name[standing.parent] if standing.parent else None
        verdicts[standing.variant] = _judge_one(standing, parent, standings)
    return verdicts


def _judge_one(
    standing: Standing, parent: Standing | None, all_standings: Sequence[Standing]
) -> tuple[Verdict, str]:
    if parent is None:
        return "base", f"the trained model: {_figures(standing)}"
    change = _change(standing, parent)
    missing = _missing(standing, parent)
    if missing:
        return "rejected", f"{missing} than {parent.variant}: {change}"
    rivals = (other for other in all_standings if _dominates(other, standing))
    best = max(rivals, key=lambda rival: (rival.val_top1, -rival.latency_ms), default=None)
    if best is not None:
        return (
            "dominated",
            f"{best.variant} is at least as good in all; against it: {_change(standing, best)}",
        )
    return "accepted", f"against {parent.variant}: {change}"


def _missing(standing: Standing, parent: Standing) -> str:
    """What a variant owes to its parent and is not, "" if nothing."""
    if standing.is_ensemble:
        return "" if standing.val_top1 > parent.val_top1 else "not right more often"
    smaller, faster = standing.size_bytes < parent.size_bytes, _faster(standing, parent)
    if not smaller and not faster:
        return "neither smaller nor faster"
    return "" if smaller and faster else f"not {'faster' if smaller else 'smaller'}"


def _dominates(one: Standing, other: Standing) -> bool:
    no_worse = (
        one.val_top1 >= other.val_top1
        and one.size_bytes <= other.size_bytes
        and not _faster(other, one)
        and not _thriftier(other, one)
    )
    better = (
        one.val_top1 > other.val_top1
        or one.size_bytes < other.size_bytes
        or _faster(one, other)
        or _thriftier(one, other)
    )
    return no_worse and better


def _faster(one: Standing, other: Standing) -> bool:
    return one.latency_ms < other.latency_ms * (1 - TIE)


def _thriftier(one: Standing, other: Standing) -> bool:
    if one.energy_joules is None or other.energy_joules is None:
        return False
    return one.energy_joules < other.energy_joules * (1 - TIE)


def _figures(standing: Standing) -> str:
    return (
        f"{standing.size_bytes / 1000:.1f} kB, {standing.latency_ms:.3f} ms, "
        f"val top-1 {standing.val_top1:.2%}"
    )


def _change(standing: Standing, reference: Standing) -> str:
    points = 100 * (standing.val_top1 - reference.val_top1)
    return (
        f"{_figures(standing)} (size x {standing.size_bytes / reference.size_bytes:.2f}, "
        f"latency x {standing.latency_ms / reference.latency_ms:.2f}, {points:+.2f} points)"
    )
