"""Which images are trained on, which choose, and which are only ever reported.

N images in order of their keys. Given splits are kept; the rest is the pool. A pool image's split
follows from hash(seed, group or key) alone, so it stays where it is when data is added.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.errors import SourceError
from imagemill.params import SplitParams
from imagemill.parquet import matching, num_rows, read_batches, writing
from imagemill.records import KEEP, MANIFEST, SPLIT_NAMES, SPLIT_SCHEMA, SPLITS

TRAIN, VAL, TEST, UNLABELLED = range(4)
assert SPLIT_NAMES == ("train", "val", "test", "unlabelled")
NOT_GIVEN, NO_LABEL = -1, -1
_PART_ROWS = 65536


class Images(NamedTuple):
    """What decides, narrow: 13 bytes an image."""

    hash_N: NDArray[np.uint64]  # of seed and key, or of seed and group: equal inside a group
    label_N: NDArray[np.int32]  # position in `classes`, or NO_LABEL
    given_N: NDArray[np.int8]  # position in SPLIT_NAMES, or NOT_GIVEN
    classes: list[str]


def split(root: Path, params: SplitParams, *, log: Callable[[str], None]) -> None:
    """Assign every kept image to train, val, test or unlabelled.

    Args:
        root: The project's root.
        params: The section `split` of params.yaml.
        log: Takes one line for whoever watches the run.

    Raises:
        SourceError: a class has too few images (or groups) to be in every split.
        DiskError: `data/split` cannot be written.
    """
    images = _read(root, params.seed)
    split_N = assign(images, params)
    with writing(root / SPLITS, SPLIT_SCHEMA) as table:
        stop = 0
        for batch in read_batches(root / KEEP, ["key"]):
            start, stop = stop, stop + batch.num_rows
            names = pa.DictionaryArray.from_arrays(pa.array(split_N[start:stop]), SPLIT_NAMES)
            rows = pa.table({"key": batch["key"], "split": names.cast(pa.string())})
            table.write(rows)
    counts = Counter({name: int((split_N == code).sum()) for code, name in enumerate(SPLIT_NAMES)})
    sizes = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    torn = _num_torn(images, split_N)
    log(f"split: {sizes}" + (f"; {torn:,} of train share a group with val or test" * bool(torn)))


def _num_torn(images: Images, split_N: NDArray[np.int8]) -> int:
    """Train images whose group is also in a given val or test: only given splits can do that."""
    evaluated = np.unique(images.hash_N[(images.given_N == VAL) | (images.given_N == TEST)])
    if not len(evaluated):
        return 0
    num_torn = 0
    for part in _parts(len(split_N)):
        hashes = images.hash_N[part][split_N[part] == TRAIN]
        nearest = np.searchsorted(evaluated, hashes).clip(max=len(evaluated) - 1)
        num_torn += int((evaluated[nearest] == hashes).sum())
    return num_torn


def _parts(count: int) -> Iterator[slice]:
    """Rows piece by piece, where numpy would make wide temporary arrays of all of them."""
    for start in range(0, count, _PART_ROWS):
        yield slice(start, start + _PART_ROWS)


def assign(images: Images, params: SplitParams) -> NDArray[np.int8]:
    """Splits of all images.

    Args:
        images: What is known of them.
        params: Shares of the pool: `test_ratio` where no test is given, and `val_ratio` of what
            is left where no val is given.

    Returns:
        Position in SPLIT_NAMES of each image, int8 [N].

    Raises:
        SourceError: a class has too few images (or groups) to be in every split.
    """
    split_N = images.given_N.copy()
    split_N[images.label_N == NO_LABEL] = UNLABELLED
    pool_N = (split_N == NOT_GIVEN) | (split_N == TRAIN)
    test_share = 0.0 if (split_N == TEST).any() else params.test_ratio
    val_share = 0.0 if (split_N == VAL).any() else (1 - test_share) * params.val_ratio
    split_N[pool_N] = TRAIN
    split_N[pool_N & (images.hash_N < _hash_at(test_share + val_share))] = VAL
    split_N[pool_N & (images.hash_N < _hash_at(test_share))] = TEST
    wanted = [TRAIN] + [VAL] * (val_share > 0) + [TEST] * (test_share > 0)
    _fill_gaps(split_N, pool_N, images, wanted)
    return split_N


def _fill_gaps(
    split_N: NDArray[np.int8], pool_N: NDArray[np.bool_], images: Images, wanted: list[int]
) -> None:
    """Move single images (or groups) so that each class of the pool is in each wanted split."""
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


def _counts(
    split_N: NDArray[np.int8], pool_N: NDArray[np.bool_], images: Images
) -> NDArray[np.int64]:
    """Pool images of each class in each split, int [C, S]."""
    num_classes, num_splits = len(images.classes), len(SPLIT_NAMES)
    counts = np.zeros(num_classes * num_splits, np.int64)
    for part in _parts(len(split_N)):
        labels, splits = images.label_N[part][pool_N[part]], split_N[part][pool_N[part]]
        counts += np.bincount(labels * num_splits + splits, minlength=len(counts))
    return counts.reshape(num_classes, num_splits)


def _movable(
    split_N: NDArray[np.int8],
    pool_N: NDArray[np.bool_],
    images: Images,
    label: int,
    missing: int,
) -> int | None:
    """The hash nearest to the missing split's range whose move leaves no other gap."""
    candidates = np.unique(images.hash_N[pool_N & (images.label_N == label)])
    # test takes the lowest hashes, val the next ones, train the highest.
    for candidate in candidates[::-1] if missing == TRAIN else candidates:
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


def _read(root: Path, seed: int) -> Images:
    count = num_rows(root / KEEP)
    images = Images(
        np.empty(count, np.uint64), np.empty(count, np.int32), np.empty(count, np.int8), []
    )
    labels: dict[str | None, int] = {None: NO_LABEL}
    stop = 0
    for rows in _labelled(root):
        start, stop = stop, stop + rows.num_rows
        keys, targets, groups, splits = (column.to_pylist() for column in rows.columns)
        for name in sorted({name for name in targets if name not in labels}):
            labels[name] = len(images.classes)
            images.classes.append(name)
        images.hash_N[start:stop] = [
            _hash(seed, key, group) for key, group in zip(keys, groups, strict=True)
        ]
        images.label_N[start:stop] = [labels[name] for name in targets]
        images.given_N[start:stop] = [
            NOT_GIVEN if name is None else SPLIT_NAMES.index(name) for name in splits
        ]
    return images


def _labelled(root: Path) -> Iterator[pa.Table]:
    """key, target, group and split of the kept images."""
    manifest = read_batches(root / MANIFEST, ["key", "target", "group", "split"])
    for rows, _ in matching(manifest, read_batches(root / KEEP, ["key"])):
        yield rows


def _hash_at(share: float) -> np.uint64:
    """The hash below which this share of all hashes lies."""
    return np.uint64(int(share * 2**64))


def _hash(seed: int, key: str, group: str | None) -> int:
    """Uniform over 64 bits; a group and a key of the same name have nothing in common."""
    who = f"key {key}" if group is None else f"group {group}"
    return int.from_bytes(hashlib.sha256(f"{seed} {who}".encode()).digest()[:8], "little")
