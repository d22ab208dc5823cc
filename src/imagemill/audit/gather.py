"""The first pass: facts of every image, from the cache or from a decoding of it.

N rows of a part of the manifest.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.audit.cache import Cache
from imagemill.audit.checks import Batch
from imagemill.audit.columns import is_dropped
from imagemill.audit.facts import FACTS, Facts, plain
from imagemill.audit.messages import Question
from imagemill.audit.pool import DecodingPool
from imagemill.audit.relations import Relations
from imagemill.audit.spool import Spool
from imagemill.audit.verdicts import Actions, unfit
from imagemill.params import AuditParams
from imagemill.parquet import BATCH_ROWS, read_batches
from imagemill.sources.entries import is_own_file

# Enough to make the trip to a worker cheap, few enough to keep all workers busy to the end.
_ASKED_AT_ONCE = 256

COLUMNS = [
    "key", "uri", "offset", "size_bytes", "sha256", "target", "split", "review", "extension"
]  # fmt: skip


@dataclass
class Gathered:
    """What the first pass leaves beside the spool.

    rows, hashes: Of the images whose near duplicates are looked for, in order of the manifest.
    """

    num_decoded: int = 0
    num_known: int = 0
    rows: "array[int]" = field(default_factory=lambda: array("q"))
    hashes: "array[int]" = field(default_factory=lambda: array("Q"))


@dataclass
class _Part:
    """Some rows of the manifest on their way."""

    rows: pa.RecordBatch
    start: int
    digests_N: NDArray[np.void]  # 32 bytes each
    facts_N: Facts
    reasons: list[str | None]
    num_known: int


_Context = tuple[_Part, NDArray[np.int64] | None]  # which of its rows; None: all are there


def parts_of(manifest: Path) -> Iterator[pa.RecordBatch]:
    """The manifest as both passes read it."""
    return read_batches(manifest, COLUMNS, batch_rows=BATCH_ROWS)


def gather(
    manifest: Path,
    params: AuditParams,
    exact: Relations,
    *,
    cache: Cache,
    pool: DecodingPool,
    spool: Spool,
) -> Gathered:
    """Write facts of all rows to the spool.

    Args:
        manifest: data/ingest/manifest.parquet.
        params: The section `audit` of params.yaml.
        exact: Rows that leave because of their copies are not decoded.
        cache: Asked first, and told what is new.
        pool: Decodes the rest.
        spool: Takes the facts in order of the manifest.
    """
    actions = Actions(params.checks)
    gathered = Gathered()
    jobs = _jobs(manifest, params, exact, actions=actions, cache=cache, gathered=gathered)
    for (part, places), answer in pool.measure(jobs):
        if places is None:
            _finish(part, params, actions, gathered, spool)
            continue
        gathered.num_decoded += len(places)
        part.facts_N[places] = answer.facts_N
        for place, reason in zip(places.tolist(), answer.reasons, strict=True):
            part.reasons[place] = reason
        cache.add(part.digests_N[places].tobytes(), answer.facts_N, answer.reasons)
    return gathered


def _jobs(
    manifest: Path,
    params: AuditParams,
    exact: Relations,
    *,
    actions: Actions,
    cache: Cache,
    gathered: Gathered,
) -> Iterator[tuple[_Context, list[Question]]]:
    """For each part the unknown ones among its images, and an empty list at the end."""
    stop = 0
    for rows in parts_of(manifest):
        start, stop = stop, stop + rows.num_rows
        wanted_N = ~is_dropped(rows)
        wanted_N[[row - start for row in _copies(exact, actions, start, stop)]] = False
        part = _begun(rows, start, wanted_N, params, cache)
        gathered.num_known += part.num_known
        missing = np.flatnonzero(wanted_N)
        for first in range(0, len(missing), _ASKED_AT_ONCE):
            places = missing[first : first + _ASKED_AT_ONCE]
            yield (part, places), _questions(rows.take(pa.array(places)))
        yield (part, None), []


def _questions(rows: pa.RecordBatch) -> list[Question]:
    columns = (rows[name].to_pylist() for name in ("uri", "offset", "size_bytes", "sha256"))
    return [
        Question(uri, offset, size_bytes, sha256, is_own_file(uri, offset))
        for uri, offset, size_bytes, sha256 in zip(*columns, strict=True)
    ]


def _copies(exact: Relations, actions: Actions, start: int, stop: int) -> Iterator[int]:
    """Rows whose image need not be looked at, since it leaves and an equal one is looked at."""
    for related in exact.within(start, stop):
        # Of a conflict all leave, and one is decoded all the same: people want to see it.
        one_of_conflict = related.check == "label_conflict" and related.row < related.twin
        if actions.leaves(related.check) and not one_of_conflict:
            yield related.row


def _begun(
    rows: pa.RecordBatch,
    start: int,
    wanted_N: NDArray[np.bool_],
    params: AuditParams,
    cache: Cache,
) -> _Part:
    """What is known without decoding; the mask is left with what is not."""
    size_N = np.asarray(rows["size_bytes"])
    raw = bytes.fromhex("".join(rows["sha256"].to_pylist()))
    digests_N = np.frombuffer(raw, "V32")
    facts_N = np.zeros(rows.num_rows, FACTS)
    reasons: list[str | None] = [None] * rows.num_rows
    for place in np.flatnonzero(wanted_N & (size_N == 0)).tolist():
        facts_N["fault"][place], reasons[place] = b"zero_byte", "the file is empty"
    for place in np.flatnonzero(wanted_N & (size_N > params.max_bytes)).tolist():
        facts_N["fault"][place] = b"over_large"
        reasons[place] = f"{size_N[place]} bytes, more than audit.max_bytes ({params.max_bytes})"
    wanted_N &= facts_N["fault"] == b""
    asked = np.flatnonzero(wanted_N)
    known = cache.find(digests_N[asked].tobytes(), max_pixels=params.max_pixels)
    found = asked[known.known_N]
    plain(facts_N)[found] = plain(known.facts_N)[known.known_N]
    wanted_N[found] = False
    for place in np.flatnonzero(known.facts_N["fault"] != b"").tolist():
        reasons[asked[place]] = known.reasons[place]
    return _Part(rows, start, digests_N, facts_N, reasons, len(found))


def _finish(
    part: _Part, params: AuditParams, actions: Actions, gathered: Gathered, spool: Spool
) -> None:
    """All facts of a part are there."""
    facts_N = part.facts_N
    # Measured under a larger limit once.
    pixels_N = facts_N["width"].astype(np.int64) * facts_N["height"]
    for place in np.flatnonzero((facts_N["fault"] == b"") & (pixels_N > params.max_pixels)):
        width, height = facts_N["width"][place], facts_N["height"][place]
        facts_N["fault"][place] = b"over_large"
        part.reasons[place] = f"{width} x {height} pixels, more than audit.max_pixels"
    spool.write(facts_N, part.reasons)
    shorter_N = np.minimum(facts_N["width"], facts_N["height"])
    compared_N = facts_N["detailed"] & (shorter_N >= params.checks.near_duplicate.min_side)
    compared_N &= facts_N["fault"] == b""
    if compared_N.any():
        compared_N &= ~unfit(Batch(part.rows, facts_N), params.checks, actions)
        rows = np.flatnonzero(compared_N)
        gathered.rows.frombytes((part.start + rows).astype(np.int64).tobytes())
        gathered.hashes.frombytes(facts_N["hash"][rows].astype(np.uint64).tobytes())
