"""Explain: what a model looks at, and what pictures of that are worth."""

from imagemill.explain.explanation import EXPLAIN, explain

__all__ = ["EXPLAIN", "explain"]
