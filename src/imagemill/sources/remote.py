"""Files on an object store or a web server: listed, and read whole or by ranges."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, BinaryIO, Literal, NamedTuple, cast
from urllib.parse import quote, unquote

from imagemill.errors import SourceError
from imagemill.sources.entries import Entry, checked_name, is_hidden
from imagemill.sources.stores import NothingThereError, asked

NUM_THREADS = 16

_MIN_FETCH_BYTES, _MAX_FETCH_BYTES = 1 << 14, 1 << 23
# A store is asked for so many names, at most, to see what kind of source lies there.
_MAX_NAMES = 10_000
_MAX_DEPTH = 32
_PAGE_NAMES = 1000
# What back ends call the state of a file, the surest first.
_STAMPS = ("ETag", "etag", "md5Hash", "Content-MD5", "LastModified", "Last-Modified", "updated")


class Status(NamedTuple):
    """What lies at an address."""

    kind: Literal["file", "folder"]
    size_bytes: int
    stamp: str | None


def is_remote(uri: str) -> bool:
    """Whether it is an address and no path."""
    return "://" in uri


def status(uri: str) -> Status | None:
    """What lies at an address; None if there is nothing.

    Raises:
        SourceError: the server cannot be reached, or refuses.
        UnknownNameError: a scheme we do not read.
    """
    try:
        info = asked(uri, lambda store: store.info(uri))
    except NothingThereError:
        return None
    return _status(info)


def statuses(uris: list[str]) -> Iterator[Status | None]:
    """`status` of many addresses, several at a time."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        yield from threads.map(status, uris)


def read(uri: str) -> bytes:
    """A whole file.

    Raises:
        SourceError: there is nothing, or the server cannot be reached, refuses or dies.
    """
    return bytes(asked(uri, lambda store: store.cat_file(uri)))


def read_range(uri: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of a file; fewer if it ends before.

    Raises:
        SourceError: there is nothing, or the server cannot be reached, refuses or dies, or it
            only hands out whole files.
    """
    if start >= end:
        return b""
    if not uri.startswith("http"):
        return bytes(asked(uri, lambda store: store.cat_file(uri, start=start, end=end)))

    def fetch(store: Any) -> bytes:
        # This way a server without ranges is noticed before it sends a whole archive.
        with store.open(uri, size=end, cache_type="none") as stream:
            stream.seek(start)
            return bytes(stream.read(end - start))

    return asked(uri, fetch)


def open_stream(uri: str, size_bytes: int) -> BinaryIO:
    """A seekable stream of a file that fetches ahead while it is read in a row."""
    return cast(BinaryIO, Stream(uri, size_bytes))


def _status(info: dict[str, Any]) -> Status:
    if info["type"] == "directory":
        return Status("folder", 0, None)
    size = info.get("size")
    if size is None:
        raise SourceError(f"{info['name']}: the server does not say its size; download it first")
    mark = next((str(info[name]) for name in _STAMPS if info.get(name)), None)
    return Status("file", int(size), mark and f"{mark} {size}")


class Stream(io.RawIOBase):
    """Reads by ranges: one request where reading jumps, ever larger ones where it goes on.

    Args:
        uri: Address of the file.
        size_bytes: Its size.
    """

    def __init__(self, uri: str, size_bytes: int) -> None:
        super().__init__()
        self._uri = uri
        self._size = size_bytes
        self._position = 0
        self._start, self._window = 0, b""
        self._fetch_bytes = _MIN_FETCH_BYTES

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set the position; nothing is fetched yet."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, fewer at the end only."""
        left = max(self._size - self._position, 0)
        size = left if size < 0 else min(size, left)
        at = self._position - self._start
        if at < 0 or at + size > len(self._window):
            self._fetch(size)
            at = self._position - self._start
        content = self._window[at : at + size]
        self._position += len(content)
        return content

    def read_at(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer at the end only."""
        self._position = offset
        return self.read(size)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def _fetch(self, size: int) -> None:
        known_end = self._start + len(self._window)
        # Skipping less than one would fetch is reading on: headers of a tar, one after the other.
        if self._start <= self._position <= known_end + self._fetch_bytes:
            self._fetch_bytes = min(2 * self._fetch_bytes, _MAX_FETCH_BYTES)
        else:
            self._fetch_bytes = _MIN_FETCH_BYTES
        kept = self._window[self._position - self._start :] if self._position < known_end else b""
        if self._position < self._start:
            kept = b""
        start = self._position + len(kept)
        end = min(max(self._position + size, start + self._fetch_bytes), self._size)
        self._start, self._window = self._position, kept + read_range(self._uri, start, end)


# Listing -------------------------------------------------------------------------------------


def names(folder: str) -> list[str]:
    """Names right in a folder, sorted, folders with a slash at the end; hidden ones left out.

    Raises:
        SourceError: the server cannot be reached, or refuses.
    """
    if folder.startswith("s3://"):
        found = _s3_names(folder)
    else:
        found = [
            _relative(info["name"], folder) + "/" * (info["type"] == "directory")
            for info in _listed(folder)
        ]
    return sorted({name.replace("//", "/") for name in found if name and not is_hidden(name)})


def entries(folder: str) -> Iterator[Entry]:
    """All files below a folder in order of their names, hidden ones left out.

    Raises:
        SourceError: the server cannot be reached, or refuses, or a name leads elsewhere.
    """
    found = _s3_entries(folder) if folder.startswith("s3://") else _walked(folder, "", _MAX_DEPTH)
    for entry in found:
        checked_name(entry.path, where=folder)
        if not is_hidden(entry.path):
            yield entry


def uri_below(folder: str, path: str) -> str:
    """The address of what lies at a relative path."""
    base = folder.rstrip("/")
    return f"{base}/{quote(path)}" if base.startswith("http") else f"{base}/{path}"


def _s3_entries(folder: str) -> Iterator[Entry]:
    """Page by page: fsspec's own listing keeps all of a bucket in memory."""
    prefix, pages = _s3_pages(folder, "")
    for page in pages:
        for item in page.get("Contents", ()):
            path, size = item["Key"][len(prefix) :], item["Size"]
            if path.endswith("/"):
                yield Entry(path.rstrip("/"), "folder", 0, 0)
            elif path:
                yield Entry(path, "file", 0, size, f"{item['ETag']} {size}")


def _s3_names(folder: str) -> list[str]:
    prefix, pages = _s3_pages(folder, "/")
    found: list[str] = []
    for page in pages:
        found += [item["Prefix"][len(prefix) :] for item in page.get("CommonPrefixes", ())]
        found += [item["Key"][len(prefix) :] for item in page.get("Contents", ())]
        if len(found) > _MAX_NAMES:
            break
    return found


def _s3_pages(folder: str, delimiter: str) -> tuple[str, Iterator[dict[str, Any]]]:
    bucket, _, key = folder.removeprefix("s3://").partition("/")
    prefix = key.rstrip("/") + "/" if key.strip("/") else ""

    def pages() -> Iterator[dict[str, Any]]:
        wanted: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter}
        wanted["MaxKeys"] = _PAGE_NAMES
        while True:
            page = asked(folder, partial(_s3_page, wanted=wanted))
            yield page
            if not page.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = page["NextContinuationToken"]

    return prefix, pages()


def _s3_page(store: Any, *, wanted: dict[str, Any]) -> dict[str, Any]:
    page: dict[str, Any] = store.call_s3("list_objects_v2", **wanted)
    return page


def _walked(folder: str, prefix: str, depth: int) -> Iterator[Entry]:
    if not depth:
        raise SourceError(f"{folder} has folders more than {_MAX_DEPTH} deep; is it a circle?")
    here = uri_below(folder, prefix) if prefix else folder
    found = sorted(_listed(here), key=lambda info: str(info["name"]))
    files = [info for info in found if info["type"] != "directory"]
    # A web server's page of links says no sizes.
    unknown = [str(info["name"]) for info in files if info.get("size") is None]
    known = dict(zip(unknown, statuses(unknown), strict=True))
    for info in found:
        path = prefix + _relative(info["name"], here)
        if info["type"] == "directory":
            yield Entry(path.rstrip("/"), "folder", 0, 0)
            yield from _walked(folder, path.rstrip("/") + "/", depth - 1)
            continue
        state = known[info["name"]] if info["name"] in known else _status(info)
        if state is not None:
            yield Entry(path, "file", 0, state.size_bytes, state.stamp)


def _listed(folder: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(
        folder, lambda store: store.ls(folder.rstrip("/") + "/", detail=True)
    )
    return [info for info in found if "?" not in info["name"]]


def _relative(name: str, folder: str) -> str:
    base = folder.rstrip("/") + "/"
    if "://" not in name:
        base = base.partition("://")[2]
    path = name.removeprefix(base)
    return unquote(path) if folder.startswith("http") else path
