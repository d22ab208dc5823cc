"""Explain: what the base looks at, in pictures."""

from imagemill.explain.explanation import EXPLAIN, explain

__all__ = ["EXPLAIN", "explain"]
