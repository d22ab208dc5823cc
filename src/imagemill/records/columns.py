"""Columns of the tables between stages."""

import pyarrow as pa

# uri + offset + size_bytes say where the raw bytes are; `imagemill.sources.RawReader` reads them.
MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("target", pa.string()),  # class name
        pa.field("group", pa.string()),
        pa.field("split", pa.string()),
        # JSON of what is known beside the class (boxes, masks, captions): carried, not interpreted.
        pa.field("annotation", pa.string()),
        pa.field("review", pa.string()),  # what labels/review.csv says: relabel, drop or keep
        pa.field("extension", pa.string()),  # of its path in the source, "" if that has none
    ]
)
# One row an image in order of the manifest: the state of the file its digest was taken from.
SEEN_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("stamp", pa.string()),  # `RawReader.stamp`; null where a file has none
    ]
)
KEEP_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("near_group", pa.string()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("mode", pa.string(), nullable=False),
        pa.field("format", pa.string(), nullable=False),  # by content, as Pillow names it
        # Sums over the pixels of the image as RGB in 0..1, to aggregate statistics over any subset.
        pa.field("mean_rgb", pa.list_(pa.float32(), 3), nullable=False),
        pa.field("mean_square_rgb", pa.list_(pa.float32(), 3), nullable=False),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("check", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
SPLIT_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)
# `shard` is relative to data/; offset and size_bytes frame the image's bytes inside it.
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("shard", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("target", pa.int32()),  # class id; null in `unlabelled`
        # Of the raw image where the bytes in the shard are other ones; null: they are the same.
        pa.field("raw_sha256", pa.string()),
    ]
)
AUGMENTED_SCHEMA = pa.schema(
    [
        *INDEX_SCHEMA,
        pa.field("parent_key", pa.string()),  # null: an original
        pa.field(
            "operations", pa.string()
        ),  # JSON: [{operation, strengths, positions}], null: an original
        pa.field("seed", pa.int64()),
    ]
)
