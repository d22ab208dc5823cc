"""Plain tars in `.imagemill/sources`: what cannot be read in place, made again when missing.

The name of a tar says which source it belongs to and which state of it: when the source changes,
another tar is made and the older one goes.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from imagemill.errors import SourceError
from imagemill.records import STATE, publishing

FOLDER = STATE / "sources"

# Images are compressed already: mnist.tar.gz expands 6 times (tar pads tiny files), blank bitmaps
# some 200 times. What expands further is a bomb.
MAX_EXPANSION = 250
_NEVER_A_BOMB_BYTES = 1 << 30


def made(
    root: Path, *, place: str, state: str, write: Callable[[Path], None], suffix: str = ".tar"
) -> Path:
    """The file of one state of a source, written first if it is not there.

    Args:
        root: The project's root.
        place: What the source is, the same in all its states.
        state: What changes when the source does.
        write: Writes the file under a temporary name.
        suffix: The file's ending.
    """
    head = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    path = root / FOLDER / f"{head}-{hashlib.sha256(state.encode()).hexdigest()[:16]}{suffix}"
    if not path.exists():
        with publishing(path) as temporary:
            write(temporary)
        for older in path.parent.glob(f"{head}-*{suffix}"):
            if older != path:
                older.unlink(missing_ok=True)
    return path


def expansion_limit(packed_bytes: int) -> int:
    """Bytes that something packed may expand to."""
    return max(_NEVER_A_BOMB_BYTES, MAX_EXPANSION * packed_bytes)


def refuse_bomb(size_bytes: int, limit: int, where: str) -> None:
    """Stop before the disk is full.

    Raises:
        SourceError: there are more bytes than the limit.
    """
    if size_bytes > limit:
        raise SourceError(
            f"{where} expands to more than {limit} bytes, {MAX_EXPANSION} times its size: "
            "this looks like a decompression bomb; pack the images as a plain .tar"
        )
