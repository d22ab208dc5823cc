"""Embeddings: what the net gives its head, of images of train and test.

Shapes: N images, D features.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemill.loading import SplitImages, to_input
from imagemill.models.parts import features_and_logits
from imagemill.records import SHARDS

_BATCH = 64


class Embeddings(NamedTuple):
    """What a net makes of images.

    features_ND: float32, what its head is given.
    predicted_N: Class ids it says.
    targets_N: True class ids.
    keys: Of the images.
    positions_N: In their split.
    """

    features_ND: NDArray[np.float32]
    predicted_N: NDArray[np.int64]
    targets_N: NDArray[np.int64]
    keys: list[str]
    positions_N: NDArray[np.intp]


def embed(model: nn.Module, images: SplitImages, positions_N: NDArray[np.intp]) -> Embeddings:
    """Embeddings of chosen images of a split.

    Args:
        model: In evaluation mode, on the CPU.
        images: The split.
        positions_N: Which.

    Raises:
        ParamsError: its head is no linear layer.
    """
    starts = range(0, len(positions_N), _BATCH)
    parts = [_embedded(model, images, positions_N[start : start + _BATCH]) for start in starts]
    return Embeddings(
        features_ND=np.concatenate([features for features, _ in parts]),
        predicted_N=np.concatenate([predicted for _, predicted in parts]),
        targets_N=images.targets_N[positions_N],
        keys=[images.keys[position] for position in positions_N.tolist()],
        positions_N=positions_N,
    )


def originals(images: SplitImages) -> NDArray[np.intp]:
    """Positions of the images of train that are no copies: those that lie in data/shards."""
    is_original = [shard.startswith(f"{SHARDS.name}/") for shard in images.frames.shards]
    return np.flatnonzero(np.array(is_original)[images.frames.shard_N])


def _embedded(
    model: nn.Module, images: SplitImages, positions_B: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with torch.inference_mode():
        images_BCHW = torch.from_numpy(to_input(images.take(positions_B)))
        features_BD, logits_BK = features_and_logits(model, images_BCHW)
    return features_BD.float().numpy(), logits_BK.argmax(1).numpy()
