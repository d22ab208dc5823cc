"""Draws that depend on what they are for, not on when they are made.

A draw is a hash of (seed, purpose, sample key): the same on any number of processes, in any batch
and after any restart. No generator, no state.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]


def key_hashes(keys: Iterable[str]) -> U64:
    """64 bits of each key, uint64 [N]."""
    joined = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in keys)
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64)


def mixed(hashes_N: U64, *purpose: int) -> U64:
    """New 64 bits of each hash for a purpose, such as (seed, epoch, position of the draw).

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators" (SplitMix64's
    finaliser), applied once for each number of the purpose.
    """
    state = _finalised(hashes_N.copy())
    for number in purpose:
        offset = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
        state = _finalised(state ^ np.uint64(offset))
    return state


def uniforms(hashes_N: U64, *purpose: int) -> NDArray[np.float64]:
    """Uniform draws in [0, 1), float64 [N], with 53 random bits each."""
    return (mixed(hashes_N, *purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _finalised(state_N: U64) -> U64:
    state_N = (state_N ^ (state_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state_N = (state_N ^ (state_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state_N ^ (state_N >> np.uint64(31))
