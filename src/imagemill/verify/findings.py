"""What is checked, which part of it, and what was found wrong."""

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, Self, TypeVar

from imagemill.errors import ParamsError
from imagemill.randomness import key_hashes

A = TypeVar("A")
B = TypeVar("B")

_QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Fault:
    """Something on disk that is not as it is on record."""

    area: str  # raw, shards, augmented, models, checkpoints or cache
    path: str  # of the file, relative to the project's root; of a raw file its uri
    reason: str
    member: str | None = None  # of a shard: the key of the image
    raw: str | None = None  # the raw file (uri) the image comes from

    def __str__(self) -> str:
        member = f", member {self.member}" if self.member else ""
        raw = f" (raw file {self.raw})" if self.raw and self.area != "raw" else ""
        return f"{self.area}: {self.path}{member}{raw}: {self.reason}"


class Slice(NamedTuple):
    """Part n of t of everything; the t parts together are all, and none overlap."""

    number: int  # from 1
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2/7`.

        Raises:
            ParamsError: not that, or there is no such part.
        """
        if match := re.fullmatch(r"(\d+)/(\d+)", text):
            number, of = map(int, match.groups())
            if 1 <= number <= of:
                return cls(number, of)
        raise ParamsError(f"--slice takes n/t with 1 <= n <= t, such as 1/7; got {text!r}")

    def mask(self, names: list[str]) -> list[bool]:
        """Which of these names belong to the part."""
        mask: list[bool] = (key_hashes(names) % self.of == self.number - 1).tolist()
        return mask

    def takes(self, name: str) -> bool:
        """Whether a name belongs to the part."""
        return self.mask([name])[0]


ALL = Slice(1, 1)


class Watch:
    """Counts what was checked, and says so now and then while it takes long."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.checked: Counter[str] = Counter()
        self._say = say
        self._next = time.monotonic() + _QUIET_SECONDS

    def count(self, area: str, number: int = 1) -> None:
        """So many more of an area are done."""
        self.checked[area] += number
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _QUIET_SECONDS
            self._say("verify: " + ", ".join(f"{n:,} {name}" for name, n in self.checked.items()))


def in_parallel(
    function: Callable[[A], B], items: Iterable[A], threads: ThreadPoolExecutor, *, ahead: int
) -> Iterator[B]:
    """Results in the order of the items, of which only `ahead` are under way at once."""
    rest = iter(items)
    pending: list[Future[B]] = [threads.submit(function, item) for item in islice(rest, ahead)]
    while pending:
        yield pending.pop(0).result()
        pending += [threads.submit(function, item) for item in islice(rest, 1)]
