"""Splits of all images, from what is known of them.

N images in order of their keys. Given splits are kept; the rest is the pool. A pool image's split
follows from hash(seed, group or key) alone, so it stays where it is when data is added; where that
is not enough (near duplicates, classes that were too small) the last assignment is remembered.
"""

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import SourceError
from imagemill.params import SplitParams
from imagemill.records import SPLIT_NAMES
from imagemill.split.images import (
    ALONE,
    NEW,
    NO_LABEL,
    NOT_GIVEN,
    TEST,
    TRAIN,
    UNLABELLED,
    VAL,
    Images,
)
from imagemill.split.units import joined, parts

U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

# Not a split: why an image is left out.
LEAK, NEAR_LEAK = -2, -3


def assign(images: Images, params: SplitParams) -> NDArray[np.int8]:
    """Splits of all images.

    Args:
        images: What is known of them.
        params: Shares of the pool: `test_ratio` where no test is given, and `val_ratio` of what
            is left where no val is given.

    Returns:
        Position in SPLIT_NAMES of each image, or LEAK or NEAR_LEAK, int8 [N].

    Raises:
        SourceError: a class has too few images (or groups) to be in every split.
    """
    split_N = images.given_N.copy()
    split_N[images.label_N == NO_LABEL] = UNLABELLED
    if params.drop_near_duplicates:
        split_N[near_given(images, split_N)] = NEAR_LEAK
    drawn = drawn_splits(images, params)
    pool_N = (split_N == NOT_GIVEN) | (split_N == TRAIN)
    hash_N = joined(images.hash_N, images.near_N, pool_N)
    split_N[pool_N] = TRAIN
    for name, bound in drawn:
        split_N[pool_N & (hash_N < bound)] = name
    wanted = [TRAIN, *sorted(name for name, _ in drawn)]
    earlier_N = _remembered(images, pool_N, wanted)
    _settle(split_N, earlier_N, hash_N, pool_N & _shared(images))
    pool_N &= split_N >= 0
    _fill_gaps(split_N, pool_N, images._replace(hash_N=hash_N, earlier_N=earlier_N), wanted)
    return split_N


def drawn_splits(images: Images, params: SplitParams) -> list[tuple[int, np.uint64]]:
    """Splits that are not given, and the hash below which an image belongs to one (or the next)."""
    labelled_N = images.label_N != NO_LABEL
    test_share = params.test_ratio
    if (labelled_N & (images.given_N == TEST)).any():
        test_share = 0.0
    val_share = (1 - test_share) * params.val_ratio
    if (labelled_N & (images.given_N == VAL)).any():
        val_share = 0.0
    drawn = [(VAL, test_share + val_share)] * (val_share > 0)
    drawn += [(TEST, test_share)] * (test_share > 0)
    return [(name, _hash_at(share)) for name, share in drawn]


def near_given(images: Images, split_N: NDArray[np.int8]) -> Mask:
    """Images that nearly equal one of a given test, or that are for training and equal one of val.

    Args:
        images: What is known of them.
        split_N: Given splits, NOT_GIVEN, or UNLABELLED.
    """
    found = np.zeros(len(split_N), bool)
    near_N = images.near_N
    if near_N is None:
        return found
    lesser = (split_N == NOT_GIVEN) | (split_N == TRAIN)
    for evaluated in (VAL, TEST):
        ids = np.unique(near_N[(split_N == evaluated) & (near_N != ALONE)])
        for part in parts(len(split_N)) if len(ids) else ():
            found[part] |= lesser[part] & np.isin(near_N[part], ids)
        lesser |= split_N == VAL
    return found


def _shared(images: Images) -> Mask:
    """Images that may have to be where others are."""
    if images.near_N is None:
        return images.grouped_N
    shared_N: Mask = images.grouped_N | (images.near_N != ALONE)
    return shared_N


def _remembered(images: Images, pool_N: Mask, wanted: list[int]) -> NDArray[np.int8]:
    """Earlier splits, where they can still hold."""
    known_N = pool_N & np.isin(images.earlier_N, wanted)
    earlier_N: NDArray[np.int8] = np.where(known_N, images.earlier_N, np.int8(NEW))
    return earlier_N


def _settle(
    split_N: NDArray[np.int8], earlier_N: NDArray[np.int8], hash_N: U64, shared_N: Mask
) -> None:
    """Put images where they were, and new ones where those are that they belong to.

    A new image that belongs to images of two splits can be in neither, so it is left out. If no
    new image did that, then grouping itself has changed: what is evaluated stays, the rest goes.
    """
    known_N = earlier_N != NEW
    split_N[known_N] = earlier_N[known_N]
    rows = np.flatnonzero(shared_N)
    units_U, unit_M = np.unique(hash_N[rows], return_inverse=True)
    was_M, new_M = earlier_N[rows], earlier_N[rows] == NEW
    splits_U = np.zeros(len(units_U), np.uint8)
    np.bitwise_or.at(splits_U, unit_M[~new_M], np.uint8(1) << was_M[~new_M].astype(np.uint8))
    count_U = np.bitwise_count(splits_U)
    # The one split, or of several the one that is evaluated last: test before val before train.
    home_U = np.log2(splits_U.clip(1)).astype(np.int8)
    settled_M = count_U[unit_M] == 1
    split_N[rows[settled_M]] = home_U[unit_M[settled_M]]
    linking_U = np.zeros(len(units_U), bool)
    linking_U[unit_M[new_M]] = True
    torn_M = count_U[unit_M] > 1
    away_M = np.where(linking_U[unit_M], new_M, was_M != home_U[unit_M])
    split_N[rows[torn_M & away_M]] = LEAK


def _fill_gaps(split_N: NDArray[np.int8], pool_N: Mask, images: Images, wanted: list[int]) -> None:
    """Move single units so that each class of the pool is in each wanted split."""
    counts_CS = _counts(split_N, pool_N, images)
    in_pool_C = counts_CS.any(axis=1)
    for label in np.flatnonzero(in_pool_C & (counts_CS[:, wanted] == 0).any(axis=1)).tolist():
        of_class_N = pool_N & (images.label_N == label)
        for missing in wanted:
            if not (split_N[of_class_N] == missing).any():
                moved = _movable(split_N, pool_N, images, label, missing)
                if moved is None:
                    raise SourceError(_too_few(images.classes[label], wanted))
                split_N[pool_N & (images.hash_N == moved)] = missing


def _counts(split_N: NDArray[np.int8], pool_N: Mask, images: Images) -> NDArray[np.int64]:
    """Pool images of each class in each split, int [C, S]."""
    num_classes, num_splits = len(images.classes), len(SPLIT_NAMES)
    counts = np.zeros(num_classes * num_splits, np.int64)
    for part in parts(len(split_N)):
        labels, splits = images.label_N[part][pool_N[part]], split_N[part][pool_N[part]]
        counts += np.bincount(labels * num_splits + splits, minlength=len(counts))
    return counts.reshape(num_classes, num_splits)


def _movable(
    split_N: NDArray[np.int8], pool_N: Mask, images: Images, label: int, missing: int
) -> int | None:
    """The hash nearest to the missing split's range whose move leaves no other gap.

    Images that have been assigned before are moved only if no new one can be.
    """
    of_class_N = pool_N & (images.label_N == label)
    candidates = np.unique(images.hash_N[of_class_N])
    settled = np.unique(images.hash_N[of_class_N & (images.earlier_N != NEW)])
    # test takes the lowest hashes, val the next ones, train the highest.
    ordered = candidates[::-1] if missing == TRAIN else candidates
    is_settled = np.isin(ordered, settled)
    for candidate in [*ordered[~is_settled], *ordered[is_settled]]:
        unit_N = pool_N & (images.hash_N == candidate)
        donor = split_N[unit_N][0]
        staying_N = (split_N == donor) & pool_N & ~unit_N
        if np.isin(images.label_N[unit_N], images.label_N[staying_N]).all():
            return int(candidate)
    return None


def _too_few(name: str, wanted: list[int]) -> str:
    return (
        f"class {name!r} has too few images (or groups of them) to be in each of "
        f"{', '.join(SPLIT_NAMES[code] for code in wanted)}: add images, or remove the class"
    )


def _hash_at(share: float) -> np.uint64:
    """The hash below which this share of all hashes lies."""
    return np.uint64(int(share * 2**64))
