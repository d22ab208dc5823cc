"""`imagemill gc`: what nothing refers to any more, named first and freed if asked to."""

from imagemill.gc.collection import Collection, collect, free

__all__ = ["Collection", "collect", "free"]
