"""Other loaders on the same images, each as its documentation sets it up, in one process.

Those built on torch's DataLoader get the fastest transforms torchvision has for them: tensors of
uint8, antialiased, never floats.
"""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from benchmarks.loaders.work import Turn, Work

BATCH = 128
Epochs = Iterator[Iterator[int]]


def imagefolder(work: Work, turn: Turn) -> Epochs:
    """torchvision.datasets.ImageFolder, shuffled."""
    del turn
    from torchvision.datasets import ImageFolder

    folder = work.made("files", _link)
    return _repeated(DataLoader(ImageFolder(folder, _transform(work)), BATCH, shuffle=True))


def webdataset(work: Work, turn: Turn) -> Epochs:
    """webdataset's stock pipeline on our shards."""
    del turn
    import webdataset

    shards = [str(path) for path in sorted((work.project() / "data/shards").rglob("*.tar"))]
    transform = _transform(work)
    data = (
        webdataset.WebDataset(shards, shardshuffle=False)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, lambda target: target)
        .batched(BATCH)
    )
    return _repeated(data)


def litdata(work: Work, turn: Turn) -> Epochs:
    """litdata.StreamingDataset on chunks of the raw bytes."""
    del turn
    from litdata import StreamingDataLoader, StreamingDataset

    folder, transform = work.made("litdata", _litdata), _transform(work)

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            row = super().__getitem__(index)
            return transform(_opened(row["image"])), row["label"]

    data = Images(str(folder / "chunks"), shuffle=True)
    return _repeated(StreamingDataLoader(data, batch_size=BATCH))


def mosaicml(work: Work, turn: Turn) -> Epochs:
    """streaming.StreamingDataset on MDS shards of the raw bytes."""
    del turn
    from streaming import StreamingDataset

    folder, transform = work.made("mds", _mds), _transform(work)

    class Images(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: Any) -> Any:
            row = super().__getitem__(index)
            return transform(_opened(row["image"])), row["label"]

    data = Images(local=str(folder / "shards"), shuffle=True, batch_size=BATCH)
    return _repeated(DataLoader(data, BATCH))


def ffcv(work: Work, turn: Turn) -> Epochs:
    """FFCV with JPEGs inside its file, random order, one thread."""
    del turn
    # numba's other layer, TBB, can wait for ever when it is unloaded.
    os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
    from ffcv.fields.decoders import (
        IntDecoder,
        RandomResizedCropRGBImageDecoder,
        SimpleRGBImageDecoder,
    )
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import RandomHorizontalFlip, ToTensor

    folder = work.made("ffcv", _ffcv)
    size = (work.size, work.size)
    image = [SimpleRGBImageDecoder()]
    if work.crop:
        image = [RandomResizedCropRGBImageDecoder(size), RandomHorizontalFlip()]
    loader = Loader(
        str(folder / "images.beton"),
        batch_size=BATCH,
        num_workers=1,
        order=OrderOption.RANDOM,
        os_cache=True,
        pipelines={
            "image": [*image, ToTensor()],
            "label": [IntDecoder(), ToTensor()],
        },
    )
    return _repeated(loader)


def dali(work: Work, turn: Turn) -> Epochs:
    """NVIDIA DALI on the CPU, from files, one thread."""
    del turn
    from nvidia.dali import fn, pipeline_def, types

    files = [str(path) for path in work.files()]

    @pipeline_def(batch_size=BATCH, num_threads=1, device_id=None, seed=0)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        encoded, labels = fn.readers.file(
            files=files, labels=[0] * len(files), random_shuffle=True, name="reader"
        )
        if work.crop:
            images = fn.decoders.image_random_crop(encoded, device="cpu", output_type=types.RGB)
            images = fn.resize(images, size=[work.size, work.size], antialias=True)
            images = fn.flip(images, horizontal=fn.random.coin_flip())
        else:
            images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        return images, labels

    built = pipeline()
    built.build()

    def epoch() -> Iterator[int]:
        left = len(files)
        while left > 0:
            images, _ = built.run()
            yield min(left, len(images))
            left -= len(images)

    return _endless(epoch)


def _repeated(loader: Any) -> Epochs:
    def epoch() -> Iterator[int]:
        for images, _ in loader:
            yield len(images)

    return _endless(epoch)


def _endless(epoch: Any) -> Epochs:
    while True:
        yield epoch()


def _transform(work: Work) -> Any:
    if not work.crop:
        return v2.PILToTensor()
    crop = v2.RandomResizedCrop(work.size, antialias=True)
    return v2.Compose([v2.PILToTensor(), crop, v2.RandomHorizontalFlip()])


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


# What each wants to read -------------------------------------------------------------------------


def _link(folder: Path, files: Sequence[Path]) -> None:
    for number, file in enumerate(files):
        (folder / file.parent.name).mkdir(exist_ok=True)
        (folder / file.parent.name / f"{number}.jpg").hardlink_to(file)


def _rows(files: Sequence[Path]) -> list[tuple[str, int]]:
    classes = sorted({file.parent.name for file in files})
    mixed = np.random.default_rng(0).permutation(len(files))
    return [(str(files[number]), classes.index(files[number].parent.name)) for number in mixed]


def _raw(row: tuple[str, int]) -> dict[str, Any]:
    return {"image": Path(row[0]).read_bytes(), "label": row[1]}


def _litdata(folder: Path, files: Sequence[Path]) -> None:
    from litdata import optimize

    optimize(_raw, _rows(files), str(folder / "chunks"), chunk_bytes="64MB", num_workers=1)


def _mds(folder: Path, files: Sequence[Path]) -> None:
    from streaming import MDSWriter

    columns = {"image": "bytes", "label": "int"}
    with MDSWriter(out=str(folder / "shards"), columns=columns) as writer:
        for row in _rows(files):
            writer.write(_raw(row))


class _Decoded:
    """What FFCV's writer takes: pictures, which it encodes again."""

    def __init__(self, rows: list[tuple[str, int]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> tuple[Image.Image, int]:
        path, label = self._rows[number]
        return Image.open(path).convert("RGB"), label


def _ffcv(folder: Path, files: Sequence[Path]) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    quality = 94 if max(Image.open(files[0]).size) > 32 else 75
    fields = {
        "image": RGBImageField(write_mode="jpg", jpeg_quality=quality),
        "label": IntField(),
    }
    writer = DatasetWriter(str(folder / "images.beton"), fields, num_workers=1)
    writer.from_indexed_dataset(_Decoded(_rows(files)))
