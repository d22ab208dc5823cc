"""The rule for the first champion and its challenger."""

from imagemill.promote import Candidate, best_first, choose_aliases


def candidate(
    version: int, *, low: float, latency: float = 1.0, verdict: str = "accepted"
) -> Candidate:
    return Candidate(f"v{version}", version, val_top1_low=low, latency_ms=latency, verdict=verdict)


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
