"""What a case trains on: images of noise in our decoded cache, and the same as tensors in memory.

Shapes: N images, B images of a batch, K classes, C H W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from benchmarks.photographs import FOLDER
from benchmarks.prepared import make_project
from imagemill.loading import SplitImages, open_split
from imagemill.models import build_model
from imagemill.params import AugmentParams, TrainParams, read_params
from imagemill.records import Architecture, publishing_folder

PROJECT = Path(__file__).resolve().parent.parent.parent
CLASSES = 10


def tiny(channels: int, size: int) -> nn.Module:
    """Next to no arithmetic: what remains is the loop."""
    inputs = channels * size * size
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, CLASSES))


def resnet18_small(channels: int, size: int) -> nn.Module:
    """torchvision's ResNet-18 with a stem for small images."""
    del size
    net = torchvision.models.resnet18(num_classes=CLASSES)
    net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def _of_the_table(name: str, channels: int, size: int) -> nn.Module:
    return build_model(
        Architecture(name=name, arguments={"width": 1.0}),
        input_shape=(channels, size, size),
        num_classes=CLASSES,
        mean=[0.5] * channels,
        std=[0.25] * channels,
    )


NETS = {
    "tiny": tiny,
    "seed_mnist": partial(_of_the_table, "seed_mnist"),
    "resnet20": partial(_of_the_table, "resnet20"),
    "resnet18": resnet18_small,
    "efficientnet_lite0": partial(_of_the_table, "efficientnet_lite0"),
}


@dataclass(frozen=True)
class Work:
    """A net and its images.

    net: A name in NETS.
    channels, size: Of an image.
    images: How many there are.
    batch: Images of a step, over all processes.
    """

    net: str
    channels: int
    size: int
    images: int
    batch: int = 128

    def model(self) -> nn.Module:
        """The net before its first step, the same each time."""
        torch.manual_seed(0)
        return NETS[self.net](self.channels, self.size)

    def opened(self) -> SplitImages:
        """The images in our decoded cache."""
        root = FOLDER / "training" / f"{self.size}-{self.images}"
        if not root.exists():
            with publishing_folder(root) as temporary:
                _make(temporary, self.size, self.images)
        loading = read_params(PROJECT).loading.model_copy(update={"cache_bytes": 10**10})
        shape = (self.channels, self.size, self.size)
        return open_split(root, "train", input_shape=shape, loading=loading)


WORKS = {
    "tiny": Work("tiny", channels=1, size=28, images=12_800),
    "seed_mnist": Work("seed_mnist", channels=1, size=28, images=12_800),
    "resnet20": Work("resnet20", channels=3, size=32, images=12_800),
    "resnet18": Work("resnet18", channels=3, size=32, images=12_800),
    "resnet18_256": Work("resnet18", channels=3, size=32, images=12_800, batch=256),
    "efficientnet_lite0": Work("efficientnet_lite0", channels=3, size=96, images=2_560),
}


def params(work: Work, **changes: object) -> TrainParams:
    """What we ship, for a work: its batch, and its images as large as they are."""
    shipped = {
        "input_size": work.size,
        "resolutions": None,
        "batch_size": work.batch,
        "epochs": 10_000,
        "label_smoothing": 0.0,
        "warmup": 0.1,
    }
    return read_params(PROJECT).train.model_copy(update=shipped | changes)


def no_augmentation() -> AugmentParams:
    """Images as they are."""
    return read_params(PROJECT).augment.model_copy(update={"online": ()})


class Tensors:
    """Batches without end: float32 images of the whole split in memory, in a new order each time.

    channels_last: Their layout; False: NCHW.
    """

    def __init__(self, work: Work, *, channels_last: bool) -> None:
        images = work.opened()
        layout = torch.channels_last if channels_last else torch.contiguous_format
        pixels = torch.from_numpy(images.take(np.arange(len(images)))).permute(0, 3, 1, 2)
        self._batch = work.batch
        self._images_NCHW = pixels.to(torch.float32, memory_format=layout).div_(255)
        self._targets_N = torch.from_numpy(np.array(images.targets_N))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order_N = torch.randperm(len(self._targets_N))
            whole = len(order_N) // self._batch * self._batch
            for batch_B in order_N[:whole].split(self._batch):
                yield self._images_NCHW[batch_B], self._targets_N[batch_B]


def _make(folder: Path, size: int, count: int) -> None:
    draws = np.random.default_rng(0)
    files = []
    for number in range(count):
        file = folder / "files" / f"class_{number % CLASSES}" / f"{number:06d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = draws.integers(0, 256, (size, size, 3), dtype=np.uint8)
        file.write_bytes(cv2.imencode(".png", noise)[1].tobytes())
        files.append(file)
    make_project(folder, files)
