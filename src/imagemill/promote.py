"""Which version answers: the rule for the first champion and for its challenger.

The rule reads `val` only; `test` is only ever reported.
"""

from collections.abc import Iterable
from dataclasses import dataclass

CHAMPION = "champion"
CHALLENGER = "challenger"
REJECTED = "rejected"


@dataclass(frozen=True)
class Candidate:
    """A registered variant, as the rule sees it."""

    variant: str
    version: int
    val_top1_low: float  # lower end of the 95 % interval, fraction
    latency_ms: float  # p50 at batch 1
    verdict: str


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
