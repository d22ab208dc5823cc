"""Which version answers: the rules behind the aliases. Pure: no registry, no clock, no files.

The rules read `val` only, robustness included; `test` is only ever reported.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

from imagemill.params import PromoteParams

CHAMPION = "champion"
CHALLENGER = "challenger"
FASTEST = "fastest-within-1pt"
SMALLEST = "smallest-within-1pt"
REJECTED = "rejected"
WITHIN = 0.01  # of top-1 on val: the point in the names above

_Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Gain:
    """How much higher one top-1 on val is than another, with its 95 % interval; fractions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Candidate:
    """A registered version, as the rules see it. Figures are fractions; None: not measured."""

    variant: str
    version: int
    verdict: str
    val_top1: float
    val_top1_low: float  # ends of the 95 % interval
    val_top1_high: float
    latency_ms: float  # p50 at batch 1
    size_bytes: int
    data_digest: str
    parent_version: int | None = None
    gain_over_parent: Gain | None = None  # paired: measured on the same images
    worst_class_recall: float | None = None  # on val
    ece: float | None = None  # on val
    relative_corruption_error: float | None = None


@dataclass(frozen=True)
class Gate:
    """One question of the policy and its answer."""

    name: str
    passed: bool
    told: str


@dataclass(frozen=True)
class Decision:
    """Whether a candidate becomes champion, and why."""

    candidate: Candidate
    champion: Candidate | None
    gates: tuple[Gate, ...]

    @property
    def promoted(self) -> bool:
        """Whether every gate is passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def reasons(self) -> list[str]:
        """A line a gate."""
        return [f"{'yes' if gate.passed else 'NO'}: {gate.told}" for gate in self.gates]


def decide(policy: PromoteParams, candidate: Candidate, champion: Candidate | None) -> Decision:
    """Whether a version becomes champion.

    Args:
        policy: The section `promote`.
        candidate: The version that wants to.
        champion: The one that is; None: nobody is, so no gain is asked for.

    Returns:
        The decision; every gate is answered, so that all reasons are known at once.
    """
    gates = [_verdict(candidate)]
    if champion is not None:
        gates += _against(policy, candidate, champion)
    return Decision(candidate, champion, (*gates, *_limits(policy, candidate)))


def gain_between(candidate: Candidate, champion: Candidate) -> Gain:
    """The gain of one version over another on val.

    Where the champion is the candidate's parent it was measured in pairs, image by image, and that
    is taken. Else the two intervals are combined.

    Source:
        Newcombe 1998, "Interval estimation for the difference between independent proportions:
        comparison of eleven methods", method 10. On the same images two models agree more than
        independent ones would, so the interval is wider than it need be: cautious.
    """
    if candidate.parent_version == champion.version and candidate.gain_over_parent is not None:
        return candidate.gain_over_parent
    value = candidate.val_top1 - champion.val_top1
    down = math.hypot(
        candidate.val_top1 - candidate.val_top1_low, champion.val_top1_high - champion.val_top1
    )
    up = math.hypot(
        candidate.val_top1_high - candidate.val_top1, champion.val_top1 - champion.val_top1_low
    )
    return Gain(value, value - down, value + up)


def p_of_gain(gain: Gain, least: float) -> float:
    """One-sided p of the null hypothesis that the true gain is no more than `least`.

    From the lower arm of the interval as if the estimate were normal; where the interval has no
    width the value itself decides.
    """
    distance = gain.value - least
    deviation = max(gain.value - gain.low, 0.0) / _Z95
    if deviation == 0:
        return 0.5 if distance == 0 else float(distance < 0)
    return 1 - NormalDist().cdf(distance / deviation)


def best_first(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates worth an alias: best lower bound of `val` top-1 first, ties by latency.

    Args:
        candidates: Registered variants; rejected ones are left out.
    """
    worthy = [candidate for candidate in candidates if candidate.verdict != REJECTED]
    return sorted(
        worthy,
        key=lambda candidate: (-candidate.val_top1_low, candidate.latency_ms, candidate.variant),
    )


def choose_aliases(
    candidates: Iterable[Candidate],
    *,
    champion: int | None,
    challenger: int | None,
    something_is_new: bool,
) -> dict[str, int]:
    """Aliases to set after a registration.

    A champion that is there stays: only a promotion moves it. A challenger that is there stays
    until something new is registered; then it is the best variant that is not champion.

    Args:
        candidates: The variants of the registered content.
        champion: The version that holds the alias now; None: nobody, or its files were lost.
        challenger: The same for the challenger.
        something_is_new: Whether this registration added a version.

    Returns:
        Alias -> version; an alias for which nobody is worthy is left out.
    """
    ranked = best_first(candidates)
    aliases: dict[str, int] = {}
    if champion is None and ranked:
        champion = ranked[0].version
    if champion is not None:
        aliases[CHAMPION] = champion
    rest = [candidate.version for candidate in ranked if candidate.version != champion]
    if challenger is not None and challenger != champion and not something_is_new:
        rest = [challenger]
    if rest:
        aliases[CHALLENGER] = rest[0]
    return aliases


def choose_specialists(champion: Candidate, others: Iterable[Candidate]) -> dict[str, int]:
    """Who is fastest and who smallest of those within a point of the champion's top-1 on val.

    Args:
        champion: It is among them itself.
        others: Registered versions; rejected ones and those of other data are left out.
    """
    rivals = [
        other
        for other in best_first(others)
        if other.data_digest == champion.data_digest
        and other.val_top1 >= champion.val_top1 - WITHIN - 1e-12
    ]
    near = [champion, *(rival for rival in rivals if rival.version != champion.version)]
    # Of several that tie the first is taken: the champion, then the best.
    fastest = min(near, key=lambda one: (one.latency_ms, -one.val_top1))
    smallest = min(near, key=lambda one: (one.size_bytes, -one.val_top1))
    return {FASTEST: fastest.version, SMALLEST: smallest.version}


def _verdict(candidate: Candidate) -> Gate:
    return Gate("verdict", candidate.verdict != REJECTED, f"its verdict is {candidate.verdict}")


def _against(policy: PromoteParams, candidate: Candidate, champion: Candidate) -> Iterator[Gate]:
    if candidate.version == champion.version:
        yield Gate("champion", False, f"version {champion.version} is champion already")
        return
    gain = gain_between(candidate, champion)
    told = (
        f"top-1 on val {candidate.val_top1:.2%} against {champion.val_top1:.2%} of version "
        f"{champion.version}: {100 * gain.value:+.2f} points "
        f"({100 * gain.low:+.2f} to {100 * gain.high:+.2f})"
    )
    if candidate.data_digest != champion.data_digest:
        told += ", measured on other data"
    wanted = f"{100 * policy.min_gain:+.2f}"
    yield Gate("gain", gain.value >= policy.min_gain, f"{told}, at least {wanted} asked")
    p = p_of_gain(gain, policy.min_gain)
    yield Gate(
        "significance",
        p <= policy.max_p,
        f"p {p:.3f} that the gain is not above {wanted} points, at most {policy.max_p:g} asked",
    )


def _limits(policy: PromoteParams, candidate: Candidate) -> Iterator[Gate]:
    one = candidate
    yield from _floor("worst class", one.worst_class_recall, policy.min_class_recall, "recall")
    yield from _ceiling("calibration", one.ece, policy.max_ece, "error on val")
    yield from _ceiling(
        "robustness",
        one.relative_corruption_error,
        policy.max_relative_corruption_error,
        "times the base's error",
    )
    yield from _ceiling("latency", one.latency_ms, policy.max_latency_ms, "ms")
    yield from _ceiling("size", one.size_bytes, policy.max_size_bytes, "bytes")


def _floor(name: str, value: float | None, least: float | None, unit: str) -> Iterator[Gate]:
    if least is not None:
        passed = value is not None and value >= least
        yield Gate(name, passed, f"{name}: {_shown(value)} {unit}, at least {least:g} asked")


def _ceiling(name: str, value: float | None, most: float | None, unit: str) -> Iterator[Gate]:
    if most is not None:
        passed = value is not None and value <= most
        yield Gate(name, passed, f"{name}: {_shown(value)} {unit}, at most {most:g} asked")


def _shown(value: float | None) -> str:
    return "not measured, in" if value is None else f"{value:.4g}"
