"""What a saved index holds, and where.

sections, one after the other, each at a multiple of 64 bytes (see SECTIONS)
header: JSON, with what is on record about the index.parquet it was made from
length of the header, uint64
sha256 of everything before, 32 bytes
"""

from pathlib import Path
from typing import NamedTuple, Self

from imagemill.records import sha256_of_file

# Name and type; there is one value an image, but `key_blob` holds the keys end to end.
SECTIONS: dict[str, str] = {
    "hashes": "<u8",
    "targets": "<i8",
    "offsets": "<i8",
    "sizes": "<i8",
    "key_ends": "<i8",
    "shards": "<i4",
    "sha256": "V32",
    "key_blob": "u1",
}
VERSION = 1
ALIGNMENT = 64  # bytes
DIGEST_BYTES = 32
READ_BYTES = 1 << 20


class Origin(NamedTuple):
    """The index.parquet a saved index was made from."""

    sha256: str
    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, index: Path, *, known: Self | None) -> Self:
        """Its state now; the digest is taken again only if it differs from the known one."""
        status = index.stat()
        state = (status.st_size, status.st_mtime_ns, status.st_ino)
        if known is not None and known[1:] == state:
            return known
        return cls(sha256_of_file(index), *state)
