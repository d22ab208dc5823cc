"""Compress: children of the base, smaller or faster, each by a chain of steps."""

from imagemill.compress.chain import METHODS, compress

__all__ = ["METHODS", "compress"]
