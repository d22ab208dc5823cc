"""Evaluate: quality and cost of the base and its variants, measured the same way, and a verdict."""

from imagemill.evaluate.evaluation import EVALUATE, evaluate
from imagemill.evaluate.views import VIEWS

__all__ = ["EVALUATE", "VIEWS", "evaluate"]
