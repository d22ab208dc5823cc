"""`imagemill trace`: from a raw file to the models that saw it, and back. Knows no registry."""

from imagemill.trace.entries import ImageTrace, Known, ShardTrace, Trace, VersionTrace, as_json
from imagemill.trace.search import trace

__all__ = ["ImageTrace", "Known", "ShardTrace", "Trace", "VersionTrace", "as_json", "trace"]
