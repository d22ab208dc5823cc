"""Facts of all images in order of the manifest, on disk between the two passes of an audit."""

from pathlib import Path
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from imagemill.audit.facts import FACTS, Facts
from imagemill.errors import DiskError


class Spool:
    """Written once from the front, then read from the front and, a few records, anywhere.

    A context manager; the folder's owner removes the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._facts: IO[bytes] = (folder / "facts.bin").open("w+b")
            self._reasons: IO[str] = (folder / "reasons.txt").open("w+", encoding="utf-8")
        except OSError as error:
            raise DiskError(f"cannot write {folder}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._facts.close()
        self._reasons.close()

    def write(self, facts_N: Facts, reasons: list[str | None]) -> None:
        """Append facts, and the reasons of those that are faulty."""
        try:
            self._facts.write(facts_N.tobytes())
            for row in np.flatnonzero(facts_N["fault"] != b"").tolist():
                self._reasons.write(" ".join((reasons[row] or "").split()) + "\n")
        except OSError as error:
            raise DiskError(f"cannot write {self._folder}: {error.strerror}") from error

    def rewind(self) -> None:
        """Go to the front; from now on the spool is read."""
        self._facts.flush()
        self._facts.seek(0)
        self._reasons.seek(0)

    def read(self, count: int) -> tuple[Facts, dict[int, str]]:
        """The next facts, and reasons by position among them."""
        facts_N = np.frombuffer(self._facts.read(count * FACTS.itemsize), FACTS)
        faulty = np.flatnonzero(facts_N["fault"] != b"").tolist()
        return facts_N, {row: self._reasons.readline().rstrip("\n") for row in faulty}

    def at(self, rows_P: NDArray[np.int64]) -> Facts:
        """Facts of some rows, without moving what `read` reads next."""
        self._facts.flush()
        here = self._facts.tell()
        found = []
        for row in rows_P.tolist():
            self._facts.seek(row * FACTS.itemsize)
            found.append(self._facts.read(FACTS.itemsize))
        self._facts.seek(here)
        return np.frombuffer(b"".join(found), FACTS)
