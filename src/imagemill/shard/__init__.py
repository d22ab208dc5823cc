"""From a split to WebDataset tars: survey, plan, write, publish."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imagemill.shard.stage import shard

__all__ = ["shard"]


def __getattr__(name: str) -> Any:
    """The stage is imported when it is asked for: processes that write shards do without."""
    if name == "shard":
        from imagemill.shard.stage import shard

        return shard
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
