"""Images per CPU second of every operation, ours and torchvision v2's.

`python -m benchmarks.augmentation`

Batches of uint8 RGB pictures, 500 at 32 px and 128 at 224 px, one thread each. Ours is a policy of
one entry with probability 1, draws included; torchvision is called for each image with a strength
of its own, as a DataLoader does, on uint8 where it takes it, bilinear where it asks. The last
cases are why operations loop over images in OpenCV: the same in numpy on the whole batch
(docs/decisions/0011).
"""

import statistics
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from benchmarks.results import Row, write_results
from imagemill.augment import OPERATIONS, compile_policy
from imagemill.augment.policy import AUTOMATIC
from imagemill.params import OperationParams
from imagemill.randomness import key_hashes

BATCHES = {32: 500, 224: 128}
ROUNDS = 3
BILINEAR = v2.InterpolationMode.BILINEAR
Pixels = NDArray[np.uint8]
Work = Callable[[], object]

RANGES = {
    "rotate": (-20, 20),
    "scale": (0.8, 1.25),
    "shear": (-15, 15),
    "translate": (-0.1, 0.1),
    "crop": (0.6, 1),
    "brightness": (0.6, 1.4),
    "contrast": (0.6, 1.4),
    "saturation": (0.6, 1.4),
    "hue": (-0.1, 0.1),
    "blur": (0.5, 1.5),
    "sharpness": (0.5, 1.5),
    "posterize": (3, 7),
    "solarize": (64, 192),
    "erasing": (0.05, 0.3),
}
KNOBS = {
    "trivial_augment": {},
    "rand_augment": {"count": 2, "magnitude": 9},
    "augmix": {"width": 3, "depth": 3, "severity": 3, "alpha": 1.0},
}


def main() -> None:
    """Measure and write benchmarks/results/augmentation.json."""
    write_results("augmentation", measure())


def measure() -> list[Row]:
    """A row an operation and size, with torchvision's figure beside it where it has one."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    for side, count in BATCHES.items():
        pictures = _pictures(count, side)
        for name in (*OPERATIONS, *AUTOMATIC, "mixup", "cutmix"):
            other = _theirs(name, pictures)
            rates = _rates(count, [_ours(name, pictures), *([other] if other else [])])
            row = Row(f"{name}, {side} px", round(rates[0]), "images/CPU s")
            rows.append(row.against("torchvision v2", round(rates[1])) if other else row)
        for name, on_batch in _in_numpy(pictures).items():
            rates = _rates(count, [_ours(name, pictures), on_batch])
            row = Row(f"{name}, {side} px, image by image", round(rates[0]), "images/CPU s")
            rows.append(row.against("numpy on the batch", round(rates[1])))
    return rows


def _rates(count: int, works: Sequence[Work]) -> list[float]:
    """Images per CPU second of each, taken in turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for round_ in range(ROUNDS + 1):
        for work, found in zip(works, seconds, strict=True):
            start = time.process_time()
            work()
            if round_:  # the first one warms up
                found.append(time.process_time() - start)
    return [count / max(statistics.median(found), 1e-9) for found in seconds]


def _pictures(count: int, side: int) -> Pixels:
    """Soft shapes with some noise, uint8 [count, side, side, 3]."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 8, 8, 3), np.uint8)
    shapes = np.stack([cv2.resize(image, (side, side)) for image in coarse]).astype(np.int16)
    noise = generator.integers(-12, 13, shapes.shape, np.int16)
    return np.clip(shapes + noise, 0, 255).astype(np.uint8)


def _ours(name: str, pictures: Pixels) -> Work:
    hashes = key_hashes([f"k{number}" for number in range(len(pictures))])
    knobs = KNOBS.get(name, {"range": RANGES[name]} if name in RANGES else {})
    if name in ("mixup", "cutmix"):
        knobs = {"alpha": 1.0}
    entry = OperationParams.model_validate({"operation": name, "probability": 1, **knobs})
    policy = compile_policy([entry], seed=0, online=True)
    if policy.mixing is None:
        return lambda: policy.apply(pictures, hashes, epoch=0)
    mixing, neighbours = policy.mixing, np.roll(pictures, -1, axis=0)
    return lambda: mixing.mix(pictures, neighbours, hashes, epoch=0)


def _theirs(name: str, pictures: Pixels) -> Work | None:
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    if name in ("mixup", "cutmix"):
        mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](alpha=1.0, num_classes=10)
        labels, floats = torch.zeros(len(planes), dtype=torch.int64), planes.float()
        return lambda: mix(floats, labels)
    transform = _transform(name, pictures.shape[1])
    if transform is None:
        return None
    return lambda: [transform(image) for image in planes]


def _transform(name: str, side: int) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """torchvision's transform of one image, with a random strength where ours has one."""
    pixels = round(0.1 * side) / side
    known: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "rotate": v2.RandomRotation(20, BILINEAR),
        "scale": v2.RandomAffine(0, scale=(0.8, 1.25), interpolation=BILINEAR),
        "shear": v2.RandomAffine(0, shear=(-15, 15, -15, 15), interpolation=BILINEAR),
        "translate": v2.RandomAffine(0, translate=(pixels, pixels)),
        "crop": v2.RandomResizedCrop(side, (0.36, 1), (1, 1), antialias=False),
        "flip_horizontal": F.horizontal_flip,
        "flip_vertical": F.vertical_flip,
        "brightness": v2.ColorJitter(brightness=(0.6, 1.4)),
        "contrast": v2.ColorJitter(contrast=(0.6, 1.4)),
        "saturation": v2.ColorJitter(saturation=(0.6, 1.4)),
        "hue": v2.ColorJitter(hue=0.1),
        "grayscale": v2.Grayscale(3),
        "blur": v2.GaussianBlur(7, (0.5, 1.5)),
        "sharpness": v2.RandomAdjustSharpness(1.4, 1.0),
        "posterize": v2.RandomPosterize(4, 1.0),
        "solarize": v2.RandomSolarize(128, 1.0),
        "autocontrast": v2.RandomAutocontrast(1.0),
        "equalize": v2.RandomEqualize(1.0),
        "erasing": v2.RandomErasing(1.0, (0.05, 0.3)),
        "trivial_augment": v2.TrivialAugmentWide(interpolation=BILINEAR),
        "rand_augment": v2.RandAugment(2, 9, interpolation=BILINEAR),
        "augmix": v2.AugMix(all_ops=False, interpolation=BILINEAR),
    }
    return known.get(name)


def _in_numpy(pictures: Pixels) -> dict[str, Work]:
    """Some operations without a loop over images."""
    count, side = pictures.shape[:2]
    generator = np.random.default_rng(0)
    factors = generator.uniform(0.6, 1.4, (count, 1, 1, 1)).astype(np.float32)
    shifts = generator.integers(-side // 10, side // 10 + 1, (2, count, 1))
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    rows_BH, columns_BW = (np.abs(np.arange(side) - shift) % side for shift in shifts)
    every = np.arange(count)[:, None, None]

    def rounded(values: NDArray[np.float32]) -> Pixels:
        return np.clip(np.rint(values), 0, 255).astype(np.uint8)

    def saturation() -> Pixels:
        grey = (pictures @ luma)[..., None]
        return rounded(factors * pictures + (1 - factors) * grey)

    return {
        "brightness": lambda: rounded(factors * pictures),
        "saturation": saturation,
        "translate": lambda: pictures[every, rows_BH[:, :, None], columns_BW[:, None]],
        "flip_horizontal": lambda: np.ascontiguousarray(pictures[:, :, ::-1]),
        "mixup": lambda: rounded(factors / 2 * pictures + (1 - factors / 2) * pictures[::-1]),
    }


if __name__ == "__main__":
    main()
