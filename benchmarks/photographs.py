"""The image files that benchmarks read, made once from the archives in `IMAGEMILL_DATASETS`.

The photographs are those of clothing.tar enlarged 1.5 times by Lanczos and saved as JPEG of quality
94: about 110 kB each, which is what a camera picture of 600x800 pixels weighs.
"""

import io
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image

from imagemill import tars
from imagemill.errors import SourceError
from imagemill.records import publishing_folder

FOLDER = Path(__file__).resolve().parent.parent / ".imagemill" / "benchmarks"
ENLARGED = 1.5
QUALITY = 94
_PARTS = 4


def archive(name: str) -> Path:
    """An archive in the folder `IMAGEMILL_DATASETS`.

    Raises:
        SourceError: the variable is not set, or the archive is not there.
    """
    folder = os.environ.get("IMAGEMILL_DATASETS")
    path = Path(folder or ".") / name
    if folder is None or not path.is_file():
        raise SourceError(f"set IMAGEMILL_DATASETS to the folder that holds {name}")
    return path


def photographs() -> Path:
    """A folder `<class>/<name>.jpg` of 3,781 photographs of about 110 kB."""
    folder = FOLDER / "photographs"
    if not folder.exists():
        source = archive("clothing.tar")
        with publishing_folder(folder) as temporary, ProcessPoolExecutor() as processes:
            tasks = [(source, temporary, part) for part in range(_PARTS)]
            list(processes.map(_enlarge, tasks))
    return folder


def cifar_files() -> Path:
    """A folder `{train,test}/<class>/<name>.jpg` of CIFAR-10's 60,000 images."""
    folder = FOLDER / "cifar10"
    if not folder.exists():
        with publishing_folder(folder) as temporary, tarfile.open(archive("cifar10.tar.gz")) as tar:
            tar.extractall(temporary, filter="data")
    return folder / "cifar10"


def _enlarge(task: tuple[Path, Path, int]) -> None:
    """One of `_PARTS` parts of the photographs."""
    source, folder, part = task
    images = (member for member in tars.members(source) if member.name.endswith(".jpg"))
    with source.open("rb") as stream:
        for member in islice(images, part, None, _PARTS):
            *_, name, file = member.name.split("/")
            stream.seek(member.offset)
            with Image.open(io.BytesIO(stream.read(member.size_bytes))) as image:
                size = round(image.width * ENLARGED), round(image.height * ENLARGED)
                large = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            (folder / name).mkdir(exist_ok=True)
            large.save(folder / name / file, quality=QUALITY)


if __name__ == "__main__":
    print(photographs(), cifar_files(), sep="\n")
