"""Perceptual hashes that differ in a few bits, found without comparing all with all.

Hashes are cut into blocks. If two of them differ in at most d of b blocks, b - d blocks are equal;
so for each choice of b - d blocks the hashes are sorted by these bits, and compared only where all
of them agree. With enough blocks few do by chance.

M hashes; P pairs of them. A component is what pairs connect, directly or through others.

Source: Manku et al. 2007, "Detecting near-duplicates for web crawling", section 3. Ours chooses the
number of blocks by the number of hashes, and does not compare again what is already connected.
"""

import math
from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]

_BITS = 64
_MOST_BLOCKS = 12
# What sorting one hash costs in comparisons of two, measured; it only moves the number of blocks.
_SORTING_COST = 30
_PAIRS_AT_ONCE = 1 << 18
_LONG_RUN = 16


class Components:
    """A growing set of connections among `count` members; each knows the least of its component."""

    def __init__(self, count: int) -> None:
        self._parent: I64 = np.arange(count)

    def of(self, members_P: I64) -> I64:
        """The least member of each one's component."""
        roots = self._parent[members_P]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[members_P] = roots
        return roots

    def connect(self, one_P: I64, other_P: I64) -> None:
        """Join the components of each pair."""
        while len(one_P):
            one, other = self.of(one_P), self.of(other_P)
            apart = one != other
            one_P, other_P, one, other = (x[apart] for x in (one_P, other_P, one, other))
            # Where several want to hang the same root elsewhere, the last round may undo an
            # earlier one of this call; such pairs are still apart and come again.
            self._parent[np.maximum(one, other)] = np.minimum(one, other)

    def groups(self) -> Iterator[I64]:
        """Members of each component of two or more, ascending."""
        roots = self.of(np.arange(len(self._parent)))
        moved = np.flatnonzero(roots != np.arange(len(roots)))
        if not len(moved):
            return
        members = np.union1d(moved, roots[moved])
        order = members[np.argsort(roots[members], kind="stable")]
        yield from np.split(order, np.flatnonzero(np.diff(roots[order])) + 1)


def connect_near(
    hashes_M: U64,
    components: Components,
    *,
    max_distance: int,
    confirm: Callable[[I64, I64], NDArray[np.bool_]],
) -> None:
    """Connect all hashes that differ in at most `max_distance` bits and are confirmed.

    Args:
        hashes_M: 64 bits each.
        components: Takes the connections; has M members.
        max_distance: Bits, 0 to 16.
        confirm: Says of pairs (positions of one, of the other) which are truly alike.
    """
    for mask in _masks(len(hashes_M), max_distance):
        order_M = np.argsort(hashes_M & mask, kind="stable")
        sorted_M = hashes_M[order_M]
        for first_P, second_P in _candidates(sorted_M, mask, order_M, components):
            distance_P = np.bitwise_count(sorted_M[first_P] ^ sorted_M[second_P])
            near = distance_P <= max_distance
            one_P, other_P = order_M[first_P[near]], order_M[second_P[near]]
            new = components.of(one_P) != components.of(other_P)
            one_P, other_P = one_P[new], other_P[new]
            if len(one_P):
                agreed = confirm(one_P, other_P)
                components.connect(one_P[agreed], other_P[agreed])


def _masks(count: int, max_distance: int) -> Iterator[np.uint64]:
    """The bits that are compared, one choice of blocks after the other."""
    blocks = min(
        range(max_distance + 1, _MOST_BLOCKS + max_distance),
        key=lambda b: _cost(b, count, max_distance),
    )
    bounds = [round(place * _BITS / blocks) for place in range(blocks + 1)]
    for chosen in combinations(range(blocks), blocks - max_distance):
        bits = sum((1 << bounds[place + 1]) - (1 << bounds[place]) for place in chosen)
        yield np.uint64(bits)


def _cost(blocks: int, count: int, max_distance: int) -> float:
    """Comparisons to expect with so many blocks."""
    tables = math.comb(blocks, max_distance)
    bits = _BITS * (blocks - max_distance) / blocks
    return tables * (_SORTING_COST * count + count**2 / 2 / 2**bits)


def _candidates(
    sorted_M: U64, mask: np.uint64, order_M: I64, components: Components
) -> Iterator[tuple[I64, I64]]:
    """Pairs of positions in the sorted hashes whose compared bits agree, not too many at once."""
    keys_M = sorted_M & mask
    same = np.flatnonzero(keys_M[1:] == keys_M[:-1])
    lag = 1
    while len(same):
        for start in range(0, len(same), _PAIRS_AT_ONCE):
            part = same[start : start + _PAIRS_AT_ONCE]
            yield part, part + lag
        # Of many equal ones all may be connected by now: then the rest has nothing to add.
        if lag >= _LONG_RUN and lag & (lag - 1) == 0:
            same = same[_is_open(same, keys_M, order_M, components)]
        lag += 1
        same = same[same + lag < len(keys_M)]
        same = same[keys_M[same] == keys_M[same + lag]]


def _is_open(same_P: I64, keys_M: U64, order_M: I64, components: Components) -> NDArray[np.bool_]:
    """Which positions belong to a run of equal keys that is not one component yet."""
    keys_P = keys_M[same_P]
    starts = np.flatnonzero(np.concatenate([[True], keys_P[1:] != keys_P[:-1]]))
    lengths = np.diff(np.append(starts, len(same_P)))
    last = np.searchsorted(keys_M, keys_P[starts], side="right") - 1
    # The run's members are its starting positions and the few behind the last of them.
    open_runs = np.ones(len(starts), bool)
    for run, (begin, end) in enumerate(zip(same_P[starts].tolist(), last.tolist(), strict=True)):
        roots = components.of(order_M[begin : end + 1])
        open_runs[run] = bool((roots != roots[0]).any())
    return np.repeat(open_runs, lengths)
