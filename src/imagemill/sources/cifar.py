"""CIFAR-10 and CIFAR-100 as they are given out: batches as pickles, or in the binary layout.

Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import SourceError
from imagemill.sources.entries import Volume
from imagemill.sources.idx import named
from imagemill.sources.pickles import read_plain
from imagemill.sources.pixels import PixelSet, tar_bytes
from imagemill.sources.trees import Tree, content_of, levels

_SIDE = 32
_IMAGE_BYTES = 3 * _SIDE * _SIDE
# A whole CIFAR-100 is one batch: 50,000 images.
_MAX_BATCH_BYTES = 400_000_000


class _Layout(NamedTuple):
    """The files of one way to hand it out."""

    train: tuple[str, ...]
    test: str
    names: str  # the file with the names of the classes
    names_entry: str | None  # the entry in it; None: it is text, one name a line
    label_entry: str | None  # None: binary
    label_bytes: int = 0  # before each image; the last of them is the class


_TEN = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = (
    _Layout(_TEN, "test_batch", "batches.meta", "label_names", "labels"),
    _Layout(
        tuple(f"{name}.bin" for name in _TEN), "test_batch.bin", "batches.meta.txt", None, None, 1
    ),
    _Layout(("train",), "test", "meta", "fine_label_names", "fine_labels"),
    _Layout(("train.bin",), "test.bin", "fine_label_names.txt", None, None, 2),
)


class Cifar(PixelSet):
    """Colour images of 32x32 pixels, train and test given."""

    prefix = "cifar:"

    def volume(self) -> Volume:
        """From the sizes of the files; a packed archive holds less than it says."""
        size_bytes = self._tree.volume().content_bytes
        num_images = size_bytes // _IMAGE_BYTES
        needed = tar_bytes(num_images, _IMAGE_BYTES + _SIDE)
        return Volume(num_images, needed, needed)

    def pictures(self) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Batch after batch."""
        folder, layout = _found(self._tree)
        for batch, _ in _batches(self._tree, folder, layout):
            levels_NP, _ = _content(self._tree, folder + batch, layout)
            for index, levels_P in enumerate(levels_NP):
                levels_HWC = levels_P.reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
                yield f"{batch.removesuffix('.bin')}/{index:05d}.png", levels_HWC

    def labels(self) -> Iterator[tuple[str, str]]:
        """By the batches' labels and names."""
        folder, layout = _found(self._tree)
        names = _class_names(self._tree, folder, layout)
        for batch, split in _batches(self._tree, folder, layout):
            _, labels = _content(self._tree, folder + batch, layout)
            yield from ((named(names, label, where=self._uri), split) for label in labels)


def is_cifar(names: Iterable[str]) -> bool:
    """Whether files of these names are CIFAR batches."""
    return _layout_of(names) is not None


def _layout_of(names: Iterable[str]) -> _Layout | None:
    present = set(names)
    for layout in LAYOUTS:
        # `train` alone could be anything.
        wanted = set(layout.train[:1]) | ({layout.names} if len(layout.train) == 1 else set())
        if wanted <= present:
            return layout
    return None


def _found(tree: Tree) -> tuple[str, _Layout]:
    for folder, names in levels(tree):
        if layout := _layout_of(names):
            return folder, layout
    raise SourceError(f"{tree.uri} holds no CIFAR batches (data_batch_1, or train and meta)")


def _batches(tree: Tree, folder: str, layout: _Layout) -> list[tuple[str, str]]:
    present = set(tree.names(folder))
    wanted = [*((name, "train") for name in layout.train), (layout.test, "test")]
    return [(name, split) for name, split in wanted if name in present]


def _class_names(tree: Tree, folder: str, layout: _Layout) -> list[str] | None:
    path = folder + layout.names
    content = content_of(tree, path, max_bytes=1 << 20)
    if content is None:
        return None
    if layout.names_entry is None:
        return content.decode("utf-8", "replace").split()
    names = read_plain(content, path).get(layout.names_entry)
    if not isinstance(names, list):
        raise SourceError(f"{path} has no list {layout.names_entry!r}")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]


def _content(tree: Tree, path: str, layout: _Layout) -> tuple[NDArray[np.uint8], list[int]]:
    """Pixels uint8 [N, 3072] and class ids of one batch."""
    content = content_of(tree, path, max_bytes=_MAX_BATCH_BYTES)
    if content is None:
        raise SourceError(f"{tree.uri}: {path} cannot be read")
    if layout.label_entry is None:
        return _binary(content, path, layout.label_bytes)
    return _pickled(read_plain(content, path), path, layout.label_entry)


def _binary(content: bytes, path: str, label_bytes: int) -> tuple[NDArray[np.uint8], list[int]]:
    row_bytes = label_bytes + _IMAGE_BYTES
    if not content or len(content) % row_bytes:
        raise SourceError(
            f"{path} is cut short or no CIFAR batch: {len(content)} bytes are not a multiple of "
            f"{row_bytes}"
        )
    rows_NR = np.frombuffer(content, np.uint8).reshape(-1, row_bytes)
    return rows_NR[:, label_bytes:], rows_NR[:, label_bytes - 1].tolist()


def _pickled(batch: dict[str, Any], path: str, entry: str) -> tuple[NDArray[np.uint8], list[int]]:
    levels_NP, labels = batch.get("data"), batch.get(entry)
    if not isinstance(levels_NP, np.ndarray) or levels_NP.shape[1:] != (_IMAGE_BYTES,):
        raise SourceError(f"{path} has no array 'data' of rows of {_IMAGE_BYTES} bytes")
    if not isinstance(labels, list) or not all(isinstance(label, int) for label in labels):
        raise SourceError(f"{path} has no list {entry!r} of numbers")
    if len(labels) != len(levels_NP):
        raise SourceError(f"{path} has {len(levels_NP)} images and {len(labels)} labels")
    return levels_NP, labels
