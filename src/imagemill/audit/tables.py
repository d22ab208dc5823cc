"""Rows of keep.parquet, quarantine.parquet and warnings.parquet."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from imagemill.audit.facts import Facts
from imagemill.audit.verdicts import Finding
from imagemill.records import KEEP_SCHEMA, QUARANTINE_SCHEMA


def kept_rows(rows: pa.RecordBatch, facts_N: Facts, near_group: pa.Array) -> pa.Table:
    """Rows of the manifest with the columns of keep.parquet beside their own.

    Args:
        rows: Of images that stay.
        facts_N: Theirs.
        near_group: Theirs; null for an image that is alone.
    """
    table = pa.Table.from_batches([rows])
    columns = {
        "near_group": near_group,
        "width": pa.array(facts_N["width"].astype(np.int32)),
        "height": pa.array(facts_N["height"].astype(np.int32)),
        "mode": _texts(facts_N["mode"]),
        "format": _texts(facts_N["format"]),
        "mean_rgb": _vectors(facts_N["mean_rgb"]),
        "mean_square_rgb": _vectors(facts_N["mean_square_rgb"]),
    }
    for name, column in columns.items():
        table = table.append_column(KEEP_SCHEMA.field(name), column)
    return table


def _texts(words_N: NDArray[np.bytes_]) -> pa.Array:
    words, places = np.unique(words_N, return_inverse=True)
    names = pa.array([word.decode() for word in words.tolist()], pa.string())
    return names.take(pa.array(places))


def _vectors(values_N3: NDArray[np.float32]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values_N3, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, 3)


def finding_rows(rows: pa.RecordBatch, findings: Sequence[Finding]) -> pa.Table:
    """Rows of quarantine.parquet or warnings.parquet.

    Args:
        rows: Of the manifest.
        findings: About some of them, by their position.
    """
    indices = pa.array([finding.row for finding in findings], pa.int64())
    return pa.table(
        {
            "key": rows["key"].take(indices),
            "uri": rows["uri"].take(indices),
            "check": [finding.check for finding in findings],
            "reason": [finding.reason for finding in findings],
        },
        schema=QUARANTINE_SCHEMA,
    )
