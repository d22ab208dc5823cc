"""What a case reads: the same images as files, as our shards, and as each peer wants them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.photographs import FOLDER, cifar_files, photographs
from benchmarks.prepared import make_project
from imagemill.records import publishing_folder

Turn = Callable[[], None]


@dataclass(frozen=True)
class Work:
    """A data set and what is done with it.

    name: "photographs" (random boxes of 600x800 pixels, resized and flipped) or "cifar" (32 px as
        they are: order, decoding, batches and targets, and nothing else).
    size: Of the batches' images, pixels.
    images: How many are read.
    """

    name: str
    size: int
    images: int

    @property
    def crop(self) -> bool:
        """Whether random boxes are cut out."""
        return self.name == "photographs"

    def files(self) -> list[Path]:
        """The first images of each class in turn, the same ones in every process."""
        folder = photographs() if self.crop else cifar_files() / "train"
        found = sorted(folder.rglob("*.jpg"))
        return found[:: max(1, len(found) // self.images)][: self.images]

    def made(self, form: str, make: Callable[[Path, list[Path]], None]) -> Path:
        """A folder that `make` filled once from the files."""
        folder = FOLDER / "loaders" / f"{self.name}-{self.images}" / form
        if not folder.exists():
            with publishing_folder(folder) as temporary:
                make(temporary, self.files())
        return folder

    def project(self) -> Path:
        """A project with our shards."""
        return self.made("project", make_project)


WORKS = {
    "photographs": Work("photographs", 224, 1200),
    "cifar": Work("cifar", 32, 50_000),
}
