"""Tasks: targets survive the way through a shard, and class ids are append-only."""

import pytest

from imagemill.tasks import TASKS, Task
from imagemill.tasks.classification import extended_classes


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_target_comes_back_from_its_member(task: Task) -> None:
    """What a task packs it unpacks."""
    assert [task.unpack(task.pack(target)) for target in (0, 7, 1234)] == [0, 7, 1234]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_member_extension_is_one_word(task: Task) -> None:
    """WebDataset splits names at the first dot, so an extension has none."""
    assert task.extension.isalnum()


def test_first_classes_are_in_alphabetical_order() -> None:
    """Ids of a new data set do not depend on the order of its images."""
    assert extended_classes([], {"dog", "ant", "cat"}) == ["ant", "cat", "dog"]


def test_known_classes_keep_their_ids() -> None:
    """New names come behind the known ones, and a name that is gone keeps its place."""
    assert extended_classes(["dog", "cat"], {"cat", "bee", "ant"}) == ["dog", "cat", "ant", "bee"]
