"""One class an image. The target is a class id: the position in an append-only list of names."""

from collections.abc import Iterable, Sequence

from imagemill.tasks.target import Task


def extended_classes(known: Sequence[str], names: Iterable[str]) -> list[str]:
    """Known classes where they are, new ones behind them in alphabetical order."""
    return [*known, *sorted(set(names).difference(known))]


def pack(class_id: int) -> bytes:
    """As WebDataset's decoder expects a `.cls` member: decimal digits."""
    return str(class_id).encode("ascii")


def unpack(content: bytes) -> int:
    """The class id of a `.cls` member."""
    return int(content)


TASK = Task(extension="cls", pack=pack, unpack=unpack)
