"""What a target is: one file a task. Stages carry targets through shards without looking inside."""

from imagemill.tasks import classification
from imagemill.tasks.target import Task

__all__ = ["TASKS", "Task"]

TASKS: dict[str, Task] = {"classification": classification.TASK}
