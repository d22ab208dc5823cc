"""Built-in data: the 1,797 handwritten digits that scikit-learn ships, 8x8 grey, values 0 to 16."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagemill import tars
from imagemill.records import STATE, publishing
from imagemill.sources.entries import FileStat, RawImage, Volume
from imagemill.sources.pixels import png

NAME = "digits"
_TAR = STATE / "sources" / "digits.tar"
# Of the images themselves, which never change; a new way to write them needs a new mark.
_NUM_IMAGES = 1797
_SIZE_BYTES, _MARK = _NUM_IMAGES * 1024, 1


class Digits:
    """The built-in source; `uri` is always "digits"."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._uri = uri

    def images(self) -> Iterator[RawImage]:
        """All digits; the class is the folder's name."""
        for member in tars.members(plain_tar(self._root)):
            target = member.name.partition("/")[0]
            yield RawImage(
                member.name, self._uri, member.offset, member.size_bytes, target, None, None
            )

    def stats(self) -> Iterator[FileStat]:
        """One constant line: built-in data does not change."""
        yield FileStat(NAME, _SIZE_BYTES, _MARK)

    def volume(self) -> Volume:
        """All digits, in a plain tar."""
        return Volume(_NUM_IMAGES, _SIZE_BYTES, 2 * _SIZE_BYTES)

    def remarks(self) -> list[str]:
        """Nothing."""
        return []


def plain_tar(root: Path) -> Path:
    """The tar of PNGs, made again when it is missing."""
    path = root / _TAR
    if not path.exists():
        from sklearn.datasets import load_digits

        digits = load_digits()
        levels_NHW = np.rint(digits.images * 255 / 16).astype(np.uint8)
        with publishing(path) as temporary, temporary.open("wb", buffering=0) as stream:
            _write(tars.TarWriter(stream), levels_NHW, digits.target)
    return path


def _write(
    writer: tars.TarWriter, levels_NHW: NDArray[np.uint8], labels_N: NDArray[np.integer]
) -> None:
    for label in range(10):
        for index in np.flatnonzero(labels_N == label):
            writer.add(f"{label}/{index:04d}.png", png(levels_NHW[index]))
    writer.close()
