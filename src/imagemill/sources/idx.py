"""IDX files as MNIST and its relatives come: `train-images-idx3-ubyte` and three more, or `.gz`.

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", file formats.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import SourceError
from imagemill.sources.entries import Entry, Volume
from imagemill.sources.pixels import PixelSet, tar_bytes
from imagemill.sources.trees import Tree, content_of, levels

CLASS_NAMES = "classes.txt"
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_IMAGES = re.compile(
    r"(?P<set>.*?)(?P<split>train|t10k|test)-images[-.]idx3-ubyte(?P<gz>\.gz)?", re.IGNORECASE
)
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
_BATCH_IMAGES = 1024
_MAX_SIDE = 1 << 14
_MAX_NAMES_BYTES = 1 << 20


class _Pair(NamedTuple):
    """Images and labels that belong together."""

    split: str
    images: Entry
    labels: Entry


class Idx(PixelSet):
    """Grey images and labels of a train and, if there is one, a test set."""

    prefix = "idx:"

    def volume(self) -> Volume:
        """As the headers say."""
        num_images = needed = 0
        for pair in _pairs(self._tree):
            with _opened(self._tree, pair.images) as stream:
                count, height, width = _header(stream, _IMAGES_MAGIC, pair.images)
            num_images += count
            needed += tar_bytes(count, height * (width + 1))
        return Volume(num_images, needed, needed)

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Train first."""
        for pair in _pairs(self._tree):
            for index, levels_HW in enumerate(_levels(self._tree, pair.images)):
                yield f"{_SPLITS[pair.split]}/{index:06d}.png", levels_HW

    def labels(self) -> Iterator[tuple[str, str]]:
        """The class is the label's number, or its line in `classes.txt`."""
        names = class_names(self._tree, _folder(self._tree))
        for pair in _pairs(self._tree):
            split = _SPLITS[pair.split]
            for label in _label_ids(self._tree, pair.labels):
                yield named(names, label, where=self._uri), split


def is_idx(names: Iterable[str]) -> bool:
    """Whether files of these names are IDX images."""
    return any(_IMAGES.fullmatch(name) for name in names)


def class_names(tree: Tree, folder: str) -> list[str] | None:
    """Names of the classes, one a line in the order of their ids, if the source brings any."""
    text = content_of(tree, folder + CLASS_NAMES, max_bytes=_MAX_NAMES_BYTES)
    return None if text is None else text.decode("utf-8", "replace").splitlines()


def named(names: list[str] | None, label: int, *, where: str) -> str:
    """The class of an id.

    Raises:
        SourceError: there are names, but not so many.
    """
    if names is None:
        return str(label)
    if not 0 <= label < len(names):
        raise SourceError(f"{where} has the label {label}, but only {len(names)} classes are named")
    return names[label]


def _folder(tree: Tree) -> str:
    """Where the files lie.

    Raises:
        SourceError: nowhere.
    """
    for folder, names in levels(tree):
        if is_idx(names):
            return folder
    raise SourceError(f"{tree.uri} holds no train-images-idx3-ubyte (nor one with .gz)")


def _pairs(tree: Tree) -> list[_Pair]:
    folder = _folder(tree)
    # A file and its packed twin are one: the plain one counts.
    found: dict[tuple[str, str], str] = {}
    for name in sorted(tree.names(folder), key=lambda name: (name.endswith(".gz"), name)):
        if match := _IMAGES.fullmatch(name):
            found.setdefault((match["set"], match["split"].lower()), name)
    sets = sorted({name for name, _ in found})
    if len(sets) > 1:
        raise SourceError(
            f"{tree.uri} holds several data sets ({', '.join(name or 'train' for name in sets)}); "
            "give each a folder of its own"
        )
    return [
        _Pair(split, _entry(tree, folder, name), _labels_entry(tree, folder, name))
        for (_, split), name in sorted(found.items(), reverse=True)
    ]


def _entry(tree: Tree, folder: str, name: str) -> Entry:
    entry = tree.find(folder + name)
    if entry is None:
        raise SourceError(f"{tree.uri}: {folder + name} cannot be read")
    return entry


def _labels_entry(tree: Tree, folder: str, images: str) -> Entry:
    expected = re.sub("idx3", "idx1", images.replace("images", "labels"), flags=re.IGNORECASE)
    plain = expected.removesuffix(".gz")
    for name in (plain, plain + ".gz"):
        entry = tree.find(folder + name)
        if entry is not None:
            return entry
    raise SourceError(f"{tree.uri} has {images} but no {expected}")


# Files ---------------------------------------------------------------------------------------


def _opened(tree: Tree, entry: Entry) -> BinaryIO:
    stream = tree.open(entry)
    if not entry.path.lower().endswith(".gz"):
        return stream
    return gzip.GzipFile(fileobj=stream)  # type: ignore[return-value]


def _levels(tree: Tree, entry: Entry) -> Iterator[NDArray[np.uint8]]:
    with _opened(tree, entry) as stream:
        count, height, width = _header(stream, _IMAGES_MAGIC, entry)
        size = height * width
        for start in range(0, count, _BATCH_IMAGES):
            wanted = min(_BATCH_IMAGES, count - start)
            content = _exactly(stream, wanted * size, entry, start * size, count * size)
            yield from np.frombuffer(content, np.uint8).reshape(wanted, height, width)
        _refuse_rest(stream, entry)


def _label_ids(tree: Tree, entry: Entry) -> Iterator[int]:
    with _opened(tree, entry) as stream:
        (count,) = _header(stream, _LABELS_MAGIC, entry)
        for start in range(0, count, 1 << 16):
            wanted = min(1 << 16, count - start)
            yield from _exactly(stream, wanted, entry, start, count)
        _refuse_rest(stream, entry)


def _header(stream: BinaryIO, magic: int, entry: Entry) -> tuple[int, ...]:
    """Sizes of the dimensions."""
    num_dimensions = magic & 0xFF
    content = _exactly(stream, 4 + 4 * num_dimensions, entry, 0, 4 + 4 * num_dimensions)
    found, *sizes = struct.unpack(f">{1 + num_dimensions}I", content)
    if found != magic:
        raise SourceError(
            f"{entry.path} is no IDX file of {num_dimensions} dimensions of bytes: it begins with "
            f"{found:#010x}, expected {magic:#010x}"
        )
    if not all(0 < side <= _MAX_SIDE for side in sizes[1:]):
        raise SourceError(f"{entry.path} announces images of {sizes[1:]} pixels")
    return tuple(sizes)


def _exactly(stream: BinaryIO, size: int, entry: Entry, before: int, total: int) -> bytes:
    content = b""
    try:
        while len(content) < size and (more := stream.read(size - len(content))):
            content += more
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise SourceError(f"{entry.path} is damaged or cut short: it cannot be unpacked") from None
    if len(content) < size:
        raise SourceError(
            f"{entry.path} is cut short: expected {total} bytes of content, got "
            f"{before + len(content)}"
        )
    return content


def _refuse_rest(stream: BinaryIO, entry: Entry) -> None:
    if stream.read(1):
        raise SourceError(f"{entry.path} holds more bytes than its header announces")
