"""What a source consists of: entries as they lie there, images as a stage wants them, and keys."""

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from imagemill.errors import SourceError

IMAGE_EXTENSIONS = frozenset(
    "avif bmp gif jp2 jpeg jpg pbm pgm png pnm ppm tga tif tiff webp".split()  # noqa: SIM905
)

_USUAL = (".jpg", ".png", ".jpeg", ".JPG")  # told first: this is asked of every file
HIDDEN = (".", "__MACOSX")  # how names begin that are none of the user's own making

_KEY_SAFE = re.compile(r"[A-Za-z0-9_/-]*")
# What nearly all paths look like: one dot, and nothing to be encoded.
_SAFE_PATH = re.compile(r"/*([A-Za-z0-9_-][A-Za-z0-9_/-]*(?<!/))\.([A-Za-z0-9_-]*)")
_KEY_UNSAFE = re.compile(rb"[^A-Za-z0-9_/-]")


class Entry(NamedTuple):
    """A file or folder of a source; `offset` and `size_bytes` frame the bytes of a file."""

    path: str  # relative to the source, with slashes
    kind: Literal["file", "folder", "other"]
    offset: int
    size_bytes: int
    stamp: str | None = None  # as of `RawReader.stamp`, where listing told it already


class RawImage(NamedTuple):
    """One image: where its bytes lie and what the source says about it."""

    path: str  # relative to the source; its key comes from this
    uri: str
    offset: int
    size_bytes: int
    target: str | None  # class name
    group: str | None
    split: str | None  # train, val, test or unlabelled
    annotation: str | None = None  # JSON of what is known beside the class
    stamp: str | None = None  # as of `RawReader.stamp`, where listing told it already


class FileStat(NamedTuple):
    """One file of a source, as `scan` remembers it."""

    name: str  # with a slash at the end if it is a folder
    size_bytes: int
    mark: int | str | None  # modification time in ns; of a remote file its etag


class Volume(NamedTuple):
    """Roughly what a source holds, told without reading it all."""

    num_files: int
    content_bytes: int
    unpacked_bytes: int  # of the plain tars in `.imagemill/`; 0 if it is read in place


class Source(Protocol):
    """A kind of source, opened."""

    def images(self) -> Iterator[RawImage]:
        """All images, streamed in any order.

        Raises:
            SourceError: the source cannot be read as a labelled image set.
        """

    def stats(self) -> Iterator[FileStat]:
        """All files, streamed in an order that only depends on their names.

        Raises:
            SourceError: the source is missing or unreadable.
        """

    def volume(self) -> Volume:
        """How much there is of it.

        Raises:
            SourceError: the source is missing or unreadable.
        """

    def remarks(self) -> list[str]:
        """What people should know about the images, once all of them were streamed."""


def counted(entries: Iterator[Entry]) -> Volume:
    """Files and bytes of entries that are read in place."""
    num_files = size_bytes = 0
    for entry in entries:
        num_files += entry.kind == "file"
        size_bytes += entry.size_bytes
    return Volume(num_files, size_bytes, 0)


def is_image_name(path: str) -> bool:
    """Whether the extension is that of an image."""
    if path.endswith(_USUAL):
        return True
    _, dot, extension = path.rpartition(".")
    return bool(dot) and extension.lower() in IMAGE_EXTENSIONS


def is_own_file(uri: str, offset: int) -> bool:
    """Whether an image is a file on disk by itself: opening its uri below the root is enough."""
    return offset == 0 and ":" not in uri and is_image_name(uri)


def is_hidden(path: str) -> bool:
    """Whether a file or one of its folders is none of the user's own making (.git, ._x.jpg)."""
    return path.startswith(HIDDEN) or "/." in path or "/__MACOSX" in path


def checked_name(name: str, *, where: str) -> str:
    """A member's path without the noise (`./a//b` is `a/b`).

    Raises:
        SourceError: the path leaves the archive.
    """
    if name.startswith(("/", "../")) or name == ".." or "/../" in name:
        raise SourceError(f"{where}: member {name!r} points outside the archive; make it again")
    if name.startswith("./") or "//" in name or "/./" in name:
        name = "/".join(part for part in name.split("/") if part not in ("", "."))
    return name


def key_and_extension(path: str) -> tuple[str, str]:
    """Split a relative path into a key safe for every file format of ours, and its extension.

    Dots are encoded too, since WebDataset splits names at the first one.
    """
    safe = _SAFE_PATH.fullmatch(path)
    if safe:
        return safe[1], safe[2]
    folder, slash, name = path.lstrip("/").rpartition("/")
    stem, _, extension = name.rpartition(".")
    if not stem:
        stem, extension = name, ""
    return _encoded(folder + slash + stem), _encoded(extension)


def _encoded(text: str) -> str:
    if _KEY_SAFE.fullmatch(text):
        return text
    raw = text.encode("utf-8", "surrogateescape")
    return _KEY_UNSAFE.sub(lambda match: b"%%%02X" % match[0][0], raw).decode("ascii")
