"""Facts that were taken once, by sha256: an image is decoded for the audit once in its life.

One SQLite file below `.imagemill/`, whatever the data set; thresholds are applied to what comes out
of it, so another threshold decodes nothing. Losing the file costs one decoding of each image.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import PIL
from numpy.typing import NDArray

from imagemill.audit.facts import FACTS, MEASUREMENT, PLAIN, Facts, plain
from imagemill.errors import DiskError
from imagemill.records import STATE

CACHE = STATE / "measured.sqlite"

_ASKED_AT_ONCE = 1024
_ROWS_A_TRANSACTION = 8192
_BUSY_SECONDS = 60

# A row's number is 63 bits of the digest, which makes a flat tree; all of it lies in the entry.
_DIGEST = np.dtype("V32")
_ENTRY = np.dtype([("sha256", _DIGEST), ("facts", PLAIN)])
# What made the facts: our code, and the decoder whose judgement they are.
_VERSION = f"measurement {MEASUREMENT}, record {_ENTRY.itemsize}, Pillow {PIL.__version__}"
_TABLE = "CREATE TABLE measured (id INTEGER PRIMARY KEY, entry BLOB NOT NULL, reason TEXT)"
_FIND = f"SELECT entry FROM measured WHERE id IN ({','.join('?' * _ASKED_AT_ONCE)})"


class Known(NamedTuple):
    """What the cache says of N images."""

    known_N: NDArray[np.bool_]
    facts_N: Facts  # zeros where nothing is known
    reasons: list[str | None]


class Cache:
    """Looks facts up and takes new ones in; a context manager.

    Args:
        path: The file; one that another version wrote, or that is damaged, starts anew.

    Raises:
        DiskError: the file cannot be made, written or read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._uncommitted = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._opened()
        except (OSError, sqlite3.Error) as error:
            raise DiskError(f"cannot write {path}: {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # What was measured is true even if the run fails later.
        with suppress(sqlite3.Error):
            self._database.commit()
        self._database.close()

    def find(self, digests: bytes, *, max_pixels: int) -> Known:
        """Facts of images as far as they are known.

        Args:
            digests: Their sha256 one after the other, 32 bytes each.
            max_pixels: An image once refused as larger is known only if it is refused again.
        """
        entry_N = np.frombuffer(digests, _DIGEST)
        ids_N = _ids(digests)
        known_N = np.zeros(len(ids_N), bool)
        facts_N = np.zeros(len(ids_N), FACTS)
        reasons: list[str | None] = [None] * len(ids_N)
        order_N = np.argsort(ids_N)
        for start in range(0, len(ids_N), _ASKED_AT_ONCE):
            part = order_N[start : start + _ASKED_AT_ONCE]
            entries_R = np.frombuffer(self._asked(ids_N[part].tolist()), _ENTRY)
            if not len(entries_R):
                continue
            ids_R = _ids(entries_R["sha256"].tobytes())
            # Rows come in any order, and images of equal bytes ask for the same one.
            by_id = np.argsort(ids_R)
            found = np.searchsorted(ids_R, ids_N[part], sorter=by_id).clip(max=len(ids_R) - 1)
            row_P = by_id[found]
            same_P = entries_R["sha256"][row_P] == entry_N[part]
            same = part[same_P]
            known_N[same] = True
            plain(facts_N)[same] = entries_R["facts"][row_P[same_P]]
            for place in same[facts_N["fault"][same] != b""].tolist():
                reasons[place] = self._reason(int(ids_N[place]))
        pixels_N = facts_N["width"].astype(np.int64) * facts_N["height"]
        known_N &= (facts_N["fault"] != b"over_large") | (pixels_N > max_pixels)
        return Known(known_N, facts_N, reasons)

    def add(self, digests: bytes, facts_N: Facts, reasons: Sequence[str | None]) -> None:
        """Take in what was measured; a fault that may be the machine's is left out."""
        entries_N = np.empty(len(facts_N), _ENTRY)
        entries_N["sha256"], entries_N["facts"] = np.frombuffer(digests, _DIGEST), plain(facts_N)
        ids_N = _ids(digests)
        # Ascending, as they lie in the file: fewer pages are touched.
        rows = [
            (int(ids_N[row]), entries_N[row].tobytes(), reasons[row])
            for row in np.argsort(ids_N).tolist()
            if not facts_N["transient"][row]
        ]
        try:
            self._database.executemany("INSERT OR REPLACE INTO measured VALUES (?, ?, ?)", rows)
            self._uncommitted += len(rows)
            if self._uncommitted >= _ROWS_A_TRANSACTION:
                self._database.commit()
                self._uncommitted = 0
        except sqlite3.Error as error:
            raise DiskError(f"cannot write {self._path}: {error}") from error

    def _asked(self, ids: list[int]) -> bytes:
        """Entries of those that are there, one after the other."""
        padding = [ids[-1]] * (_ASKED_AT_ONCE - len(ids))
        return b"".join([entry for (entry,) in self._fetched(_FIND, ids + padding)])

    def _reason(self, number: int) -> str | None:
        [row] = self._fetched("SELECT reason FROM measured WHERE id = ?", [number])
        reason: str | None = row[0]
        return reason

    def _fetched(self, query: str, ids: list[int]) -> list[tuple[Any]]:
        try:
            return self._database.execute(query, ids).fetchall()
        except sqlite3.DatabaseError as error:
            raise DiskError(f"cannot read {self._path}: {error}; delete it") from error

    def _opened(self) -> sqlite3.Connection:
        with suppress(sqlite3.DatabaseError):
            database = self._connected()
            versions = database.execute("SELECT version FROM written_by").fetchall()
            if versions == [(_VERSION,)]:
                return database
            database.close()
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        database = self._connected()
        with database:
            database.execute("CREATE TABLE written_by (version TEXT)")
            database.execute("INSERT INTO written_by VALUES (?)", (_VERSION,))
            database.execute(_TABLE)
        return database

    def _connected(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=_BUSY_SECONDS)
        # A killed run leaves a whole file; only a power cut may not, and then it starts anew.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -16000")
        database.execute("PRAGMA mmap_size = 1073741824")
        return database


def _ids(digests: bytes) -> NDArray[np.int64]:
    leading_N = np.frombuffer(digests, ">u8").reshape(-1, 4)[:, 0]
    return (leading_N >> np.uint64(1)).astype(np.int64)
