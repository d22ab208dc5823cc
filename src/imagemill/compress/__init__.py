"""Compress: children of the base, smaller or faster, each by a chain of steps."""

from imagemill.compress.chain import METHODS, compress
from imagemill.compress.exports import EXPORTS

__all__ = ["EXPORTS", "METHODS", "compress"]
