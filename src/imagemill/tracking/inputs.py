"""What `predict` is given: files, folders, shards and standard input, as one stream of images."""

import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from imagemill.errors import SourceError
from imagemill.tars import members

STDIN = "-"
_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_SHARD = ".tar"
_BLOCK = 512
_USTAR = slice(257, 262)
_MAGICS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")


class Encoded(NamedTuple):
    """An image file's content; of a shard's member the name is `<shard>/<member>`."""

    name: str
    data: bytes


def read_inputs(names: Iterable[str], stdin: BinaryIO) -> Iterator[Encoded]:
    """Images one after the other; no more than one is held here at a time.

    Args:
        names: Image files; folders (every image below them, by name); tars; `-` for standard
            input, which is an image, a tar, or the names of inputs, one a line.
        stdin: What `-` stands for.

    Raises:
        SourceError: a file is missing or cannot be read, or a folder or shard holds no image.
    """
    for name in names:
        if name == STDIN:
            yield from _from_stream(stdin)
        else:
            yield from _from_path(Path(name))


def check_inputs(names: Iterable[str]) -> None:
    """Name what is missing before anything is opened.

    Raises:
        SourceError: there is no such file or folder.
    """
    for name in names:
        if name != STDIN and not Path(name).exists():
            raise SourceError(f"{name} cannot be read: No such file or directory")


def _from_path(path: Path) -> Iterator[Encoded]:
    if path.is_dir():
        yield from _from_folder(path)
    elif path.suffix == _SHARD:
        yield from _from_shard(path)
    else:
        yield Encoded(str(path), _read(path))


def _from_folder(folder: Path) -> Iterator[Encoded]:
    files = sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS and path.is_file()
    )
    if not files:
        raise SourceError(f"{folder} holds no image: expected files that end in {_known()}")
    for file in files:
        yield Encoded(str(file), _read(file))


def _from_shard(path: Path) -> Iterator[Encoded]:
    found = False
    with path.open("rb") as stream:
        for member in members(path):
            if member.kind == "file" and _is_image(member.name):
                found = True
                stream.seek(member.offset)
                yield Encoded(f"{path}/{member.name}", stream.read(member.size_bytes))
    if not found:
        raise SourceError(f"{path} holds no image: expected members that end in {_known()}")


def _from_stream(stdin: BinaryIO) -> Iterator[Encoded]:
    head = stdin.read(_BLOCK)
    whole = _Joined(head, stdin)
    if head[_USTAR] == b"ustar":
        yield from _from_tar_stream(whole)
    elif head.startswith(_MAGICS):
        yield Encoded(STDIN, whole.read())
    else:
        yield from _from_lines(whole.read().decode(errors="replace"))


def _from_tar_stream(stream: "_Joined") -> Iterator[Encoded]:
    try:
        with tarfile.open(fileobj=cast("BinaryIO", stream), mode="r|") as tar:
            for member in tar:
                # Read in place: nothing is extracted, links are not followed.
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None and _is_image(member.name):
                    yield Encoded(f"{STDIN}/{member.name}", content.read())
    except tarfile.TarError as error:
        raise SourceError(f"standard input is a damaged tar: {error}") from None


def _from_lines(text: str) -> Iterator[Encoded]:
    for line in text.splitlines():
        if name := line.strip():
            check_inputs([name])
            yield from _from_path(Path(name))


class _Joined:
    """Bytes that were looked at already, and the rest of the stream behind them."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        """As much as asked for, if there is as much; everything without a size."""
        taken = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(taken) :]
        return taken + self._rest.read(size if size < 0 else size - len(taken))


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


def _known() -> str:
    return ", ".join(_ENDINGS)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from None
