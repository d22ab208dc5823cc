"""From a source to `data/ingest/manifest.parquet`: one row an image, with its digest."""

from imagemill.ingest.stage import ingest
from imagemill.ingest.summary import SUMMARY, IngestSummary

__all__ = ["SUMMARY", "IngestSummary", "ingest"]
