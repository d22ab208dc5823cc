"""The one-page report of a run."""

from imagemill.report.page import report

__all__ = ["report"]
