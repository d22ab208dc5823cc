"""Near duplicates: the search finds what comparing all with all finds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from imagemill.audit import near
from imagemill.audit.near import Components, connect_near

U64 = np.ndarray[tuple[int, ...], np.dtype[np.uint64]]
I64 = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def confirm_all(one_P: I64, other_P: I64) -> Mask:
    """Every pair is alike."""
    return np.ones(len(one_P), bool)


def brute_force(hashes: U64, max_distance: int) -> Components:
    """Compare all with all."""
    components = Components(len(hashes))
    for place in range(len(hashes)):
        distances = np.bitwise_count(hashes[place + 1 :] ^ hashes[place])
        near = np.flatnonzero(distances <= max_distance) + place + 1
        components.connect(np.full(len(near), place), near)
    return components


def planted(count: int, max_distance: int, *, seed: int) -> U64:
    """Random hashes, a third of them copies that differ in up to one bit more than allowed."""
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, count, dtype=np.uint64)
    copies = random.integers(0, count, count // 3)
    hashes[copies] = hashes[random.integers(0, count, count // 3)]
    for _ in range(max_distance + 1):
        turned = copies[random.random(len(copies)) < 0.8]
        hashes[turned] ^= np.uint64(1) << random.integers(0, 64, len(turned), dtype=np.uint64)
    return hashes


@pytest.mark.parametrize("max_distance", [0, 1, 4, 6, 10, 16])
@pytest.mark.parametrize("count", [2, 40, 1500])
def test_search_equals_brute_force(count: int, max_distance: int) -> None:
    """For every distance and number of hashes the same ones are connected."""
    hashes = planted(count, max_distance, seed=count + max_distance)
    found = Components(count)
    connect_near(hashes, found, max_distance=max_distance, confirm=confirm_all)
    everyone = np.arange(count)
    expected = brute_force(hashes, max_distance)
    assert np.array_equal(found.of(everyone), expected.of(everyone))


def test_crowd_is_connected() -> None:
    """A thousand hashes that all share most bits are found without missing one."""
    random = np.random.default_rng(0)
    bits = np.uint64(1) << random.integers(0, 64, 1000, dtype=np.uint64)
    hashes = np.uint64(0x1234_5678_9ABC_DEF0) ^ bits
    components = Components(1000)
    connect_near(hashes, components, max_distance=2, confirm=confirm_all)
    [group] = components.groups()
    assert len(group) == 1000


def test_refused_pair_is_not_connected() -> None:
    """Who is not confirmed stays alone, even with an equal hash."""
    components = Components(3)
    hashes = np.array([7, 7, 7], np.uint64)
    connect_near(
        hashes, components, max_distance=4, confirm=lambda one, other: (one != 1) & (other != 1)
    )
    assert [group.tolist() for group in components.groups()] == [[0, 2]]


def test_comparisons_stay_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40,000 random hashes fewer than 2 % of the 800 million pairs are compared."""
    hashes = np.random.default_rng(0).integers(0, 2**64, 40_000, dtype=np.uint64)
    candidates, compared = near._candidates, []

    def counted(*arguments: Any) -> Iterator[tuple[I64, I64]]:
        for pair in candidates(*arguments):
            compared.append(len(pair[0]))
            yield pair

    monkeypatch.setattr(near, "_candidates", counted)
    connect_near(hashes, Components(len(hashes)), max_distance=6, confirm=confirm_all)
    assert 0 < sum(compared) < 16_000_000


def test_components_name_the_least_member() -> None:
    """Whatever the order of connections, each member knows the least of its component."""
    components = Components(6)
    components.connect(np.array([5, 4, 2]), np.array([4, 2, 2]))
    assert components.of(np.arange(6)).tolist() == [0, 1, 2, 3, 2, 2]
