"""Data sets that torchvision knows by name: it downloads them, our own readers read its files.

torchvision runs in a process of its own, and only if the files are not there: data stages start
without torch.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from imagemill.errors import SourceError, UnknownNameError
from imagemill.sources.cifar import Cifar
from imagemill.sources.entries import FileStat, RawImage, Source, Volume
from imagemill.sources.folder import Folder
from imagemill.sources.idx import Idx
from imagemill.sources.plain_tars import FOLDER
from imagemill.sources.voc import Voc

PREFIX = "torchvision:"
# Name -> (the folder that holds its files once they are there, how they are read).
NAMES: dict[str, tuple[str, Callable[[Path, str], Source]]] = {
    "Caltech101": ("caltech101/101_ObjectCategories", Folder),
    "CIFAR10": ("cifar-10-batches-py", Cifar),
    "CIFAR100": ("cifar-100-python", Cifar),
    "EuroSAT": ("eurosat/2750", Folder),
    "FashionMNIST": ("FashionMNIST/raw", Idx),
    "KMNIST": ("KMNIST/raw", Idx),
    "MNIST": ("MNIST/raw", Idx),
    "VOCDetection": ("VOCdevkit/VOC2012", Voc),
}
_DOWNLOAD = (
    "import sys, torchvision.datasets as d; getattr(d, sys.argv[1])(sys.argv[2], download=True)"
)


class TorchvisionSet:
    """A data set by name, such as `torchvision:CIFAR10`."""

    def __init__(self, root: Path, uri: str) -> None:
        self._root = root
        self._name = uri.removeprefix(PREFIX)
        if self._name not in NAMES:
            raise UnknownNameError("torchvision data set that we read", self._name, NAMES)

    def images(self) -> Iterator[RawImage]:
        """All images of all its splits."""
        return self._opened().images()

    def stats(self) -> Iterator[FileStat]:
        """Its files."""
        return self._opened().stats()

    def volume(self) -> Volume:
        """As of its files."""
        return self._opened().volume()

    def remarks(self) -> list[str]:
        """Nothing."""
        return []

    def _opened(self) -> Source:
        below, kind = NAMES[self._name]
        place = FOLDER / "torchvision" / self._name
        if not (self._root / place / below).is_dir():
            _download(self._name, self._root / place)
        if not (self._root / place / below).is_dir():
            raise SourceError(f"torchvision wrote no {below} into {place}; is its version another?")
        return kind(self._root, str(place / below))


def _download(name: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", _DOWNLOAD, name, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise SourceError(
            f"torchvision could not download {name} ({told}); it needs a network, or its files in "
            f"{folder}"
        )
