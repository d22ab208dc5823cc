"""Images that must be on one side: those of a group, near duplicates, and what these connect.

N images. A unit is a set of them with one hash: a group, or a single image. Near duplicates join
units; U units are touched by that.
"""

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from imagemill.split.images import ALONE

U64 = NDArray[np.uint64]

_PART_ROWS = 65536


def parts(count: int) -> Iterator[slice]:
    """Rows piece by piece, where numpy would make wide temporary arrays of all of them."""
    for start in range(0, count, _PART_ROWS):
        yield slice(start, start + _PART_ROWS)


def joined(hash_N: U64, near_N: U64 | None, pool_N: NDArray[np.bool_]) -> U64:
    """One hash for all units that near duplicates of the pool connect.

    Args:
        hash_N: Equal inside a unit.
        near_N: Equal inside a group of near duplicates, or ALONE; None: there are none.
        pool_N: Images whose split is ours to decide.

    Returns:
        hash_N, or a copy of it with the hashes of connected units replaced.
    """
    if near_N is None:
        return hash_N
    members = np.flatnonzero(pool_N & (near_N != ALONE))
    units_U, unit_M = np.unique(hash_N[members], return_inverse=True)
    _, near_M = np.unique(near_N[members], return_inverse=True)
    least_U = _least_connected(units_U, unit_M, near_M)
    drawn = {int(least): _drawn(int(least)) for least in np.unique(least_U[least_U != units_U])}
    new_U = np.array(
        [drawn.get(int(least), int(unit)) for least, unit in zip(least_U, units_U, strict=True)],
        np.uint64,
    )
    if not drawn:
        return hash_N
    joined_N = hash_N.copy()
    for part in parts(len(hash_N)):
        hashes = hash_N[part]
        place = np.searchsorted(units_U, hashes).clip(max=len(units_U) - 1)
        hit = (units_U[place] == hashes) & pool_N[part]
        joined_N[part] = np.where(hit, new_U[place], hashes)
    return joined_N


def _least_connected(units_U: U64, unit_M: NDArray[np.int64], near_M: NDArray[np.int64]) -> U64:
    """The least hash of what each unit is connected with."""
    least_U = units_U.copy()
    while True:
        least_G = np.full(near_M.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
        np.minimum.at(least_G, near_M, least_U[unit_M])
        before = least_U.copy()
        np.minimum.at(least_U, unit_M, least_G[near_M])
        if np.array_equal(before, least_U):
            return least_U


def _drawn(least: int) -> int:
    """A new hash for connected units: the least of several would favour the lowest range, test."""
    return int.from_bytes(hashlib.sha256(f"joined {least}".encode()).digest()[:8], "little")
