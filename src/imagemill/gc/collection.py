"""What can go, from three places: DVC's cache, checkpoints, the MLflow store."""

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imagemill.errors import BusyError
from imagemill.gc.cache import unneeded_objects
from imagemill.params import BASE, Params
from imagemill.records import MODELS, STATE
from imagemill.table import readable_size
from imagemill.tracking import Waste, drop_waste, find_waste, held_by_aliases

_RUN_LOCK = STATE / "run.lock"  # held by `imagemill run`
_JOBS = STATE / "train"
_SHOWN = 20


@dataclass(frozen=True)
class Entry:
    """One thing that can go."""

    area: str
    name: str
    size_bytes: int
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class Collection:
    """All that can go, and why something was not looked at."""

    entries: tuple[Entry, ...]
    waste: tuple[Waste, ...]
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """What removing all of it frees."""
        return sum(entry.size_bytes for entry in self.entries)

    def __str__(self) -> str:
        lines = [
            f"{entry.area}: {entry.name}, {readable_size(entry.size_bytes)}"
            for entry in self.entries[:_SHOWN]
        ]
        if len(self.entries) > _SHOWN:
            lines.append(f"... and {len(self.entries) - _SHOWN} more")
        total = f"{len(self.entries)} things nothing refers to, {readable_size(self.size_bytes)}"
        return "\n".join([*lines, *self.notes, total])


def collect(root: Path, params: Params, *, now: float) -> Collection:
    """What nothing refers to.

    Needed, and never named here: what a dvc.lock or .dvc file of any branch, tag, stash, experiment
    or of the workspace lists; the same of the dvc.lock that led to a version with an alias; every
    run and model of a version that is there.

    Args:
        root: The project's root.
        params: Of them `register`.
        now: Seconds since the epoch.

    Raises:
        BusyError: a run is at work.
        ServiceError: the registry cannot be used.
    """
    with _no_run(root):
        objects, note = unneeded_objects(root, held_by_aliases(root, params))
        waste = find_waste(root, params, now=now)
        entries = [Entry("DVC cache", name, size, (path,)) for path, name, size in objects]
        entries += _checkpoints(root)
        entries += [
            Entry(f"MLflow {one.kind}", f"{one.name} ({one.id})", one.size_bytes, ())
            for one in waste
        ]
    return Collection(tuple(entries), tuple(waste), (note,) if note else ())


def free(root: Path, params: Params, found: Collection) -> None:
    """Remove what was found.

    Raises:
        BusyError: a run is at work.
    """
    with _no_run(root):
        for entry in found.entries:
            for path in entry.paths:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        if found.waste:
            drop_waste(root, params, found.waste)


def _checkpoints(root: Path) -> Iterator[Entry]:
    """Trainings that were left unfinished, and that the present base has overtaken."""
    made = root / MODELS / BASE / "model.json"
    if not made.is_file():
        return
    for job in sorted((root / _JOBS).glob("*/")):
        files = [path for path in job.rglob("*") if path.is_file()]
        newest = max((file.stat().st_mtime for file in files), default=0.0)
        if newest < made.stat().st_mtime:
            size = sum(file.stat().st_size for file in files)
            yield Entry("checkpoints", str(job.relative_to(root)), size, (job,))


@contextmanager
def _no_run(root: Path) -> Iterator[None]:
    """Hold the lock of `imagemill run`, so that none begins meanwhile."""
    path = root / _RUN_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"a run is at work in {root}; wait for it, or stop it first") from None
        yield
