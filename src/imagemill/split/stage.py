"""The stage `split`: every kept image assigned to train, val, test or unlabelled, or left out."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.collector import collecting_seldom
from imagemill.errors import IntegrityError
from imagemill.params import SplitParams
from imagemill.parquet import writing
from imagemill.records import (
    DROPPED,
    QUARANTINE_SCHEMA,
    SPLIT,
    SPLIT_NAMES,
    SPLIT_SCHEMA,
    SPLITS,
    Record,
    publishing_folder,
)
from imagemill.split.assign import LEAK, NEAR_LEAK, assign, drawn_splits, near_given
from imagemill.split.images import (
    NO_LABEL,
    TEST,
    TRAIN,
    UNLABELLED,
    VAL,
    Images,
    kept_rows,
    read_images,
)
from imagemill.split.units import parts

SUMMARY = SPLIT / "summary.json"

_REASONS = {
    LEAK: (
        "leak",
        "belongs (group or near duplicate) to images that were put into two splits before",
    ),
    NEAR_LEAK: (
        "near_leak",
        "nearly the same image as one of a given split that is only evaluated",
    ),
}


class SplitSummary(Record):
    """data/split/summary.json: what was decided, and on what terms."""

    # The assignment beside it is remembered only while these stay what they are.
    seed: int
    val_ratio: float
    test_ratio: float
    drawn: list[str]  # splits that are not given
    images: dict[str, int]  # split -> images
    dropped: dict[str, int]  # check -> images


@collecting_seldom()
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
    images = read_images(root, params.seed, earlier=_earlier(root))
    drawn = [SPLIT_NAMES[name] for name, _ in drawn_splits(images, params)]
    if not _same_terms(root, params, drawn):
        images.earlier_N[:] = -1
    split_N = assign(images, params)
    summary = SplitSummary(
        seed=params.seed,
        val_ratio=params.val_ratio,
        test_ratio=params.test_ratio,
        drawn=drawn,
        images={name: int((split_N == code).sum()) for code, name in enumerate(SPLIT_NAMES)},
        dropped={name: int((split_N == code).sum()) for code, (name, _) in _REASONS.items()},
    )
    with publishing_folder(root / SPLIT) as folder:
        _write(root, folder, split_N)
        summary.write(folder / SUMMARY.name)
    log(_told(summary, images, split_N))


def _earlier(root: Path) -> Path | None:
    return root / SPLITS if (root / SPLITS).is_file() else None


def _same_terms(root: Path, params: SplitParams, drawn: list[str]) -> bool:
    """Whether the last assignment followed the same rules."""
    with suppress(IntegrityError):
        last = SplitSummary.read(root / SUMMARY)
        terms = (last.seed, last.val_ratio, last.test_ratio, last.drawn)
        return terms == (params.seed, params.val_ratio, params.test_ratio, drawn)
    return False


def _write(root: Path, folder: Path, split_N: NDArray[np.int8]) -> None:
    with (
        writing(folder / SPLITS.name, SPLIT_SCHEMA) as table,
        writing(folder / DROPPED.name, QUARANTINE_SCHEMA) as dropped,
    ):
        stop = 0
        for rows in kept_rows(root, ["key", "uri"]):
            start, stop = stop, stop + rows.num_rows
            codes = split_N[start:stop]
            staying = rows.filter(pa.array(codes >= 0))
            names = pa.DictionaryArray.from_arrays(pa.array(codes[codes >= 0]), SPLIT_NAMES)
            table.write(pa.table({"key": staying["key"], "split": names.cast(pa.string())}))
            left = np.flatnonzero(codes < 0)
            checks, reasons = [], []
            for code in codes[left].tolist():
                checks.append(_REASONS[code][0])
                reasons.append(_REASONS[code][1])
            gone = rows.take(pa.array(left))
            columns = {"key": gone["key"], "uri": gone["uri"], "check": checks, "reason": reasons}
            dropped.write(pa.table(columns, schema=QUARANTINE_SCHEMA))


def _told(summary: SplitSummary, images: Images, split_N: NDArray[np.int8]) -> str:
    sizes = ", ".join(f"{name} {count:,}" for name, count in summary.images.items() if count)
    gone = ", ".join(f"{name} {count:,}" for name, count in summary.dropped.items() if count)
    given_N = np.where(images.label_N == NO_LABEL, np.int8(UNLABELLED), images.given_N)
    near = int((near_given(images, given_N) & (split_N >= 0)).sum())
    torn = _num_torn(images, split_N)
    return (
        f"split: {sizes}"
        + f"; left out: {gone}" * bool(gone)
        + f"; {torn:,} of train share a group with val or test" * bool(torn)
        + f"; {near:,} nearly equal an image of a given split that is only evaluated" * bool(near)
    )


def _num_torn(images: Images, split_N: NDArray[np.int8]) -> int:
    """Train images whose group is also in a given val or test: only given splits can do that."""
    evaluated = np.unique(images.hash_N[(images.given_N == VAL) | (images.given_N == TEST)])
    if not len(evaluated):
        return 0
    num_torn = 0
    for part in parts(len(split_N)):
        hashes = images.hash_N[part][split_N[part] == TRAIN]
        nearest = np.searchsorted(evaluated, hashes).clip(max=len(evaluated) - 1)
        num_torn += int((evaluated[nearest] == hashes).sum())
    return num_torn
