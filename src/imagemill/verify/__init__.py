"""Proof that every byte is the one on record: raw files, shards, copies, models, the DVC cache."""

from imagemill.verify.findings import Fault, Slice
from imagemill.verify.verification import Findings, verify

__all__ = ["Fault", "Findings", "Slice", "verify"]
