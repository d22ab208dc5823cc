"""Features of a frozen body: computed once for each image, kept as a file that is mapped.

Shapes: N images, P passes, D features.
"""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemill.augment import Policy, compile_policy
from imagemill.loading import SplitImages
from imagemill.models.parts import features_of, linear_head_of
from imagemill.params import AugmentParams
from imagemill.records import STATE
from imagemill.train.machine import Machine
from imagemill.train.ranks import Ranks

FOLDER = STATE / "features"
_BATCH = 64

Features = NDArray[np.float32]


def split_features(
    model: nn.Module,
    images: SplitImages,
    root: Path,
    machine: Machine,
    ranks: Ranks,
    *,
    augment: AugmentParams | None,
    passes: int,
) -> Features:
    """What the head would be given for each image, float32 [P, N, D].

    All ranks compute a part. A file that is there already is taken: its name is a digest of the
    weights, the images and how they were brought in.

    Args:
        model: In evaluation mode, on its device.
        images: The split, opened with the crop of `augment` if it has one.
        root: The project's root.
        machine: Where to compute.
        ranks: Those that compute together.
        augment: What is drawn anew in each pass; None: images are taken as they are. They are not
            mixed.
        passes: P.
    """
    file = root / FOLDER / f"{_key(model, images, machine, augment, passes)}.npy"
    # Rank 0 says what all do: the file may come to be at any moment.
    if ranks.largest([float(ranks.reports and file.is_file())])[0] == 0:
        _compute(model, images, file, machine, ranks, augment=augment, passes=passes)
    found: Features = np.load(file, mmap_mode="r")
    return found


def _compute(
    model: nn.Module,
    images: SplitImages,
    file: Path,
    machine: Machine,
    ranks: Ranks,
    *,
    augment: AugmentParams | None,
    passes: int,
) -> None:
    policy = None
    if augment is not None:
        policy = compile_policy(augment.online, seed=augment.seed, online=True)
    temporary = file.with_suffix(".tmp.npy")
    _, head = linear_head_of(model)
    if ranks.reports:
        file.parent.mkdir(parents=True, exist_ok=True)
        shape = (passes, len(images), head.in_features)
        np.lib.format.open_memmap(temporary, "w+", np.float32, shape).flush()
    ranks.meet()
    table_PND = np.load(temporary, mmap_mode="r+")
    mine = np.array_split(np.arange(len(images)), ranks.world)[ranks.rank]
    for number in range(passes):
        for start in range(0, len(mine), _BATCH):
            positions_B = mine[start : start + _BATCH]
            table_PND[number, positions_B] = _features(
                model, _pixels(images, positions_B, policy, number), machine
            )
    table_PND.flush()
    ranks.meet()
    if ranks.reports:
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(file)
    ranks.meet()


def _pixels(
    images: SplitImages, positions_B: NDArray[np.intp], policy: Policy | None, epoch: int
) -> NDArray[np.uint8]:
    if policy is None:
        return images.take(positions_B)
    pixels_BHWC = images.take(positions_B, epoch=epoch)
    return policy.apply(pixels_BHWC, images.hashes_N[positions_B], epoch=epoch)


@torch.inference_mode()
def _features(model: nn.Module, pixels_BHWC: NDArray[np.uint8], machine: Machine) -> Features:
    moved = torch.from_numpy(pixels_BHWC).to(machine.device).permute(0, 3, 1, 2)
    images_BCHW = moved.to(torch.float32, memory_format=machine.memory_format).div_(255)
    with machine.autocast():
        features_BD = features_of(model, images_BCHW)
    found: Features = features_BD.float().cpu().numpy()
    return found


def _key(
    model: nn.Module,
    images: SplitImages,
    machine: Machine,
    augment: AugmentParams | None,
    passes: int,
) -> str:
    said = {
        "weights": _digest(model),
        "net": str(model),
        "index": images.frames.index_sha256,
        "split": images.split,
        "input": images.input_shape,
        "resize": images.loading.resize,
        "precision": str(machine.precision),
        "augment": augment and augment.model_dump(mode="json", include={"seed", "online"}),
        "passes": passes,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:24]


def _digest(model: nn.Module) -> str:
    """Of the body's weights; the head's do not matter."""
    head, _ = linear_head_of(model)
    hasher = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(f"{head}."):
            hasher.update(name.encode())
            hasher.update(value.cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()
