"""From a split to WebDataset tars: survey, plan, write, publish."""

from imagemill.shard.stage import shard

__all__ = ["shard"]
