"""Which images are trained on, which choose, and which are only ever reported."""

from imagemill.split.stage import SUMMARY, split

__all__ = ["SUMMARY", "split"]
