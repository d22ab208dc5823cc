"""`imagemill forget`: what must be rebuilt if an image has to go, and the way up to the shards."""

from imagemill.forget.plan import Plan, plan_forgetting
from imagemill.forget.removal import forget

__all__ = ["Plan", "forget", "plan_forgetting"]
