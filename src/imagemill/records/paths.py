"""Where the files between stages lie, relative to the project's root."""

from pathlib import Path

SOURCE = Path("data/source.json")
INGEST = Path("data/ingest")
AUDIT = Path("data/audit")
SPLIT = Path("data/split")
DATA = Path("data")
SHARDS = Path("data/shards")
AUGMENTED = Path("data/augmented")
MODELS = Path("models")
REPORTS = Path("reports")
STATE = Path(".imagemill")

MANIFEST = INGEST / "manifest.parquet"
KEEP = AUDIT / "keep.parquet"
QUARANTINE = AUDIT / "quarantine.parquet"
SPLITS = SPLIT / "split.parquet"
DROPPED = SPLIT / "dropped.parquet"  # columns of quarantine.parquet: kept images in no split
SHARD_MANIFEST = SHARDS / "manifest.json"
SHARD_INDEX = SHARDS / "index.parquet"
AUGMENTED_INDEX = AUGMENTED / "index.parquet"
AUGMENTED_MANIFEST = AUGMENTED / "manifest.json"
REGISTER = REPORTS / "register.json"
LABEL_REVIEW = REPORTS / "label_review.csv"
REVIEW = Path("labels/review.csv")
SEEN = STATE / "seen.parquet"
