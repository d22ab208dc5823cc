"""Members of a zip, streamed from its central directory.

Own code instead of `zipfile`, which keeps half a kilobyte a member in memory.
"""

import io
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from imagemill.errors import SourceError

STORED, DEFLATED = 0, 8
_ENCRYPTED = 0x1
_UTF8 = 0x800
_CHUNK_BYTES = 1 << 20

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")


class ZipMember(NamedTuple):
    """One line of the central directory."""

    name: str
    kind: Literal["file", "folder", "other"]
    method: int
    checksum: int
    compressed_bytes: int
    size_bytes: int
    header_offset: int


def members(stream: BinaryIO, where: str) -> Iterator[ZipMember]:
    """All members in the order of the directory; `where` is for messages.

    Raises:
        SourceError: not a zip, damaged, or encrypted.
    """
    try:
        count, position = _directory(stream, stream.seek(0, io.SEEK_END))
        stream.seek(position)
        for _ in range(count):
            yield _member(stream, where)
    except (struct.error, ValueError, IndexError):
        raise SourceError(f"{where} is not a zip archive, or it is damaged or cut short") from None


def content_offset(stream: BinaryIO, member: ZipMember) -> int:
    """Where the member's bytes begin in the zip."""
    stream.seek(member.header_offset)
    fields = _LOCAL.unpack(stream.read(_LOCAL.size))
    return int(member.header_offset + _LOCAL.size + fields[9] + fields[10])


def content(stream: BinaryIO, member: ZipMember, where: str) -> Iterator[bytes]:
    """The member's bytes in pieces, never more than the directory announces.

    Raises:
        SourceError: an unknown compression, or bytes that are not those once packed.
    """
    if member.method not in (STORED, DEFLATED):
        raise SourceError(f"{where}: {member.name!r} uses a compression other than deflate")
    checksum = size = 0
    for chunk in _unpacked(stream, member):
        checksum, size = zlib.crc32(chunk, checksum), size + len(chunk)
        if size > member.size_bytes:
            break
        yield chunk
    if (checksum, size) != (member.checksum, member.size_bytes):
        raise SourceError(f"{where} is damaged at {member.name!r}: its checksum does not fit")


def _unpacked(stream: BinaryIO, member: ZipMember) -> Iterator[bytes]:
    stream.seek(content_offset(stream, member))
    left = member.compressed_bytes
    inflate = zlib.decompressobj(-15) if member.method == DEFLATED else None
    while left and (raw := stream.read(min(left, _CHUNK_BYTES))):
        left -= len(raw)
        if inflate is None:
            yield raw
            continue
        while raw and not inflate.eof:
            try:
                yield inflate.decompress(raw, _CHUNK_BYTES)
            except zlib.error:
                return
            raw = inflate.unconsumed_tail
    if inflate is not None:
        yield inflate.flush()


def _directory(stream: BinaryIO, total: int) -> tuple[int, int]:
    """Number of members and position of the first line of the directory."""
    tail_start = max(0, total - _END.size - 65535 - _END64_LOCATOR.size)
    stream.seek(tail_start)
    tail = stream.read()
    at = tail.rindex(b"PK\5\6")
    fields = _END.unpack_from(tail, at)
    count, position = fields[4], fields[6]
    if count != 0xFFFF and position != 0xFFFFFFFF:
        return count, position
    locator = at - _END64_LOCATOR.size
    if locator < 0 or tail[locator : locator + 4] != b"PK\6\7":
        return count, position
    stream.seek(_END64_LOCATOR.unpack_from(tail, locator)[2])
    fields = _END64.unpack(stream.read(_END64.size))
    return fields[7], fields[9]


def _member(stream: BinaryIO, where: str) -> ZipMember:
    fields = _CENTRAL.unpack(stream.read(_CENTRAL.size))
    if fields[0] != b"PK\1\2":
        raise ValueError("not a line of the directory")
    flags, method, checksum = fields[3], fields[4], fields[7]
    packed, size, offset = fields[8], fields[9], fields[16]
    raw_name = stream.read(fields[10])
    extra = stream.read(fields[11])
    stream.seek(fields[12], 1)
    name = raw_name.decode("utf-8" if flags & _UTF8 else "cp437", "surrogateescape")
    if flags & _ENCRYPTED:
        raise SourceError(f"{where}: {name!r} is encrypted; pack the images without a password")
    size, packed, offset = _widened(extra, size, packed, offset)
    kind = _kind(name, mode=fields[15] >> 16)
    return ZipMember(name.rstrip("/"), kind, method, checksum, packed, size, offset)


def _widened(extra: bytes, *fields: int) -> list[int]:
    """Replace what did not fit 32 bits by its zip64 form (size, compressed size, offset)."""
    widened = list(fields)
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            widened = [next(wide, f) if f == 0xFFFFFFFF else f for f in fields]
        position += 4 + length
    return widened


def _kind(name: str, *, mode: int) -> Literal["file", "folder", "other"]:
    if name.endswith("/"):
        return "folder"
    return "other" if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else "file"
