"""The rules: the first champion, its challenger, the fastest and the smallest, a promotion."""

from dataclasses import replace
from typing import Any

import pytest
from finished_project import REPOSITORY

from imagemill.params import read_params
from imagemill.promote import (
    Candidate,
    Gain,
    best_first,
    choose_aliases,
    choose_specialists,
    decide,
    gain_between,
    p_of_gain,
)


def candidate(
    version: int,
    *,
    low: float,
    latency: float = 1.0,
    verdict: str = "accepted",
    size: int = 1000,
    data: str = "d",
    **measured: Any,
) -> Candidate:
    """A version whose val top-1 is a point above its lower end, and a point below its upper."""
    return Candidate(
        f"v{version}",
        version,
        verdict,
        val_top1=low + 0.01,
        val_top1_low=low,
        val_top1_high=low + 0.02,
        latency_ms=latency,
        size_bytes=size,
        data_digest=data,
        **measured,
    )


BASE = candidate(1, low=0.96, verdict="base")
FAST = candidate(2, low=0.96, latency=0.2)
BETTER = candidate(3, low=0.97)
REJECTED = candidate(4, low=0.99, verdict="rejected")
ALL = [BASE, FAST, BETTER, REJECTED]


def first(candidates: list[Candidate]) -> dict[str, int]:
    return choose_aliases(candidates, champion=None, challenger=None, something_is_new=True)


def test_best_lower_bound_comes_first() -> None:
    """The lower bound of val top-1 orders candidates."""
    assert best_first([BASE, BETTER]) == [BETTER, BASE]


def test_latency_breaks_ties() -> None:
    """Of two equal lower bounds the faster comes first."""
    assert best_first([BASE, FAST]) == [FAST, BASE]


def test_name_breaks_what_latency_leaves_tied() -> None:
    """Order never depends on the order of params.yaml."""
    one, other = candidate(5, low=0.9), candidate(6, low=0.9)
    assert best_first([one, other]) == best_first([other, one])


def test_rejected_gets_no_alias() -> None:
    """A rejected variant is no candidate, however accurate."""
    assert REJECTED not in best_first(ALL)


def test_dominated_may_be_champion() -> None:
    """Only a rejection bars from the aliases."""
    assert first([candidate(9, low=0.9, verdict="dominated")]) == {"champion": 9}


def test_first_registration_gives_both_aliases() -> None:
    """The best is champion, the second best its challenger."""
    assert first(ALL) == {"champion": 3, "challenger": 2}


def test_alone_has_no_challenger() -> None:
    """With one candidate nobody challenges."""
    assert first([BASE]) == {"champion": 1}


def test_champion_stays_when_a_better_one_comes() -> None:
    """Only a promotion moves a champion that is there."""
    chosen = choose_aliases(ALL, champion=1, challenger=None, something_is_new=True)
    assert chosen["champion"] == 1


def test_champion_of_earlier_content_stays() -> None:
    """A champion need not be among the candidates."""
    chosen = choose_aliases(ALL, champion=77, challenger=78, something_is_new=True)
    assert chosen == {"champion": 77, "challenger": 3}


def test_lost_champion_is_chosen_again() -> None:
    """Without a champion the rule for the first one applies, the challenger follows."""
    chosen = choose_aliases(ALL, champion=None, challenger=3, something_is_new=False)
    assert chosen == {"champion": 3, "challenger": 2}


def test_nothing_new_moves_nothing() -> None:
    """A challenger stays while nothing new is registered, even if a better one exists."""
    chosen = choose_aliases(ALL, champion=2, challenger=1, something_is_new=False)
    assert chosen == {"champion": 2, "challenger": 1}


def test_challenger_is_never_champion() -> None:
    """A challenger that was promoted makes room for the next best."""
    chosen = choose_aliases(ALL, champion=3, challenger=3, something_is_new=False)
    assert chosen == {"champion": 3, "challenger": 2}


# The fastest and the smallest ---------------------------------------------------------------


def test_specialists_are_within_a_point_of_the_champion() -> None:
    """Who lost more than a point is no specialist, however fast and small."""
    champion = candidate(1, low=0.96)
    fast, small = candidate(2, low=0.955, latency=0.2), candidate(3, low=0.95, size=10)
    weak = candidate(4, low=0.94, latency=0.01, size=1)
    chosen = choose_specialists(champion, [champion, fast, small, weak])
    assert chosen == {"fastest-within-1pt": 2, "smallest-within-1pt": 3}


def test_champion_alone_is_fastest_and_smallest() -> None:
    """With nobody near, the champion itself holds both."""
    champion = candidate(1, low=0.96)
    assert set(choose_specialists(champion, []).values()) == {1}


def test_specialists_are_of_the_champions_data() -> None:
    """Figures of other data do not compare, and a rejected version is none."""
    champion = candidate(1, low=0.96)
    other = candidate(2, low=0.96, latency=0.1, data="e")
    rejected = candidate(3, low=0.96, latency=0.1, verdict="rejected")
    assert set(choose_specialists(champion, [other, rejected]).values()) == {1}


# A promotion --------------------------------------------------------------------------------

POLICY = read_params(REPOSITORY).promote
CHAMPION = candidate(1, low=0.90)
MUCH_BETTER = candidate(2, low=0.95, worst_class_recall=0.9, ece=0.02)


def failed(policy: Any, one: Candidate, champion: Candidate | None = CHAMPION) -> list[str]:
    """Names of the gates that are not passed."""
    return [gate.name for gate in decide(policy, one, champion).gates if not gate.passed]


def limited(**limits: Any) -> Any:
    return POLICY.model_copy(update=limits)


def test_a_clear_gain_is_promoted() -> None:
    """Five points above, with intervals that do not meet: every gate is passed."""
    assert decide(POLICY, MUCH_BETTER, CHAMPION).promoted


def test_a_gain_within_noise_is_refused_for_its_significance() -> None:
    """Half a point more is a gain, but one that chance explains."""
    assert failed(POLICY, candidate(2, low=0.905)) == ["significance"]


def test_a_loss_is_refused() -> None:
    """Worse than the champion fails both questions about the gain."""
    assert failed(POLICY, candidate(2, low=0.89)) == ["gain", "significance"]


def test_a_negative_gain_may_be_accepted() -> None:
    """With a margin of three points, a model that is surely not worse than that passes."""
    assert failed(limited(min_gain=-0.03), candidate(2, low=0.90)) == []


def test_rejected_is_never_promoted() -> None:
    """A verdict of evaluation bars, however accurate."""
    assert failed(POLICY, replace(MUCH_BETTER, verdict="rejected")) == ["verdict"]


def test_without_a_champion_only_limits_count() -> None:
    """Nobody to beat: no gain is asked for."""
    gates = decide(POLICY, MUCH_BETTER, None).gates
    assert [gate.name for gate in gates] == ["verdict"]


def test_the_champion_is_not_promoted_again() -> None:
    """It is champion already."""
    assert failed(POLICY, CHAMPION) == ["champion"]


@pytest.mark.parametrize(
    ("limit", "value", "gate"),
    [
        ("min_class_recall", 0.95, "worst class"),
        ("max_ece", 0.01, "calibration"),
        ("max_latency_ms", 0.5, "latency"),
        ("max_size_bytes", 999, "size"),
        ("max_relative_corruption_error", 1.2, "robustness"),
    ],
)
def test_each_limit_refuses(limit: str, value: float, gate: str) -> None:
    """A figure beyond its limit, or one that was not measured, is the one reason."""
    assert failed(limited(**{limit: value}), MUCH_BETTER) == [gate]


def test_a_limit_that_is_met_is_no_hindrance() -> None:
    """At the limit is within it."""
    policy = limited(min_class_recall=0.9, max_ece=0.02, max_latency_ms=1.0, max_size_bytes=1000)
    assert failed(policy, MUCH_BETTER) == []


def test_paired_figures_are_taken_against_the_parent() -> None:
    """What was measured image by image is sharper than two intervals."""
    paired = Gain(0.005, 0.001, 0.009)
    child = candidate(2, low=0.905, parent_version=1, gain_over_parent=paired)
    assert gain_between(child, CHAMPION) == paired
    assert failed(POLICY, child) == []
    assert gain_between(child, replace(CHAMPION, version=7)) != paired


def test_interval_of_an_unpaired_gain() -> None:
    """Newcombe's example (b): 9/10 against 3/10 gives 0.1705 to 0.8090 around 0.6."""
    one, other = candidate(2, low=0), candidate(1, low=0)
    one = replace(one, val_top1=0.9, val_top1_low=0.5958, val_top1_high=0.9821)
    other = replace(other, val_top1=0.3, val_top1_low=0.1078, val_top1_high=0.6032)
    gain = gain_between(one, other)
    # four decimals are what the paper prints
    assert [gain.low, gain.high] == pytest.approx([0.1705, 0.8090], abs=1e-4)


def test_p_at_the_end_of_the_interval() -> None:
    """A gain whose 95 % interval just reaches the margin has a one-sided p of 2.5 %."""
    assert p_of_gain(Gain(0.02, 0.0, 0.04), 0.0) == pytest.approx(0.025)


def test_other_data_is_said() -> None:
    """Where the two were measured on other data, the reason tells so."""
    decision = decide(POLICY, replace(MUCH_BETTER, data_digest="e"), CHAMPION)
    assert any("measured on other data" in reason for reason in decision.reasons)
