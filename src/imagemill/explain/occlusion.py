"""Evidence by covering: what the model no longer says without a patch. Any runtime can be asked.

Shapes: B images, C channels, H height, W width, P patches, K classes.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.metrics import softmax
from imagemill.runtimes import Predictor

_BATCH = 128
_LEAST = 1e-30  # a probability of 0 would be infinitely much evidence

Patch = tuple[slice, slice]  # rows, columns


class Occlusion(NamedTuple):
    """What patches are worth.

    patches: P places.
    drops_BP: How much of log(probability of the predicted class) each holds, nats.
    evidence_BHW: At each pixel the mean of the patches over it.
    """

    patches: list[Patch]
    drops_BP: NDArray[np.float64]
    evidence_BHW: NDArray[np.float32]


def occlude(
    predict: Predictor,
    images_BCHW: NDArray[np.float32],
    predicted_B: NDArray[np.int64],
    *,
    blank_C: NDArray[np.float32],
    window: float,
    stride: float,
) -> Occlusion:
    """Cover each image patch by patch and ask again.

    Args:
        predict: Images -> logits.
        images_BCHW: float32 in 0..1.
        predicted_B: The classes to explain.
        blank_C: What patches are covered with, one value a channel.
        window: Side of a patch, as a share of the image's.
        stride: Distance between patches, likewise.

    Source:
        Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks"; ours takes
        the logarithm of the probability, so that sure predictions tell something too.
    """
    height, width = images_BCHW.shape[2:]
    places = product(_spans(height, window, stride), _spans(width, window, stride))
    patches = list(places)
    drops_BP = np.stack(
        [
            _drops(predict, image_CHW, label, patches, blank_C)
            for image_CHW, label in zip(images_BCHW, predicted_B, strict=True)
        ]
    )
    return Occlusion(patches, drops_BP, _spread(drops_BP, patches, (height, width)))


def log_probabilities(
    predict: Predictor, images_BCHW: NDArray[np.float32], label: int
) -> NDArray[np.float64]:
    """log(probability of one class) for each image, float64 [B]."""
    batches = (images_BCHW[start : start + _BATCH] for start in range(0, len(images_BCHW), _BATCH))
    probs_BK = np.concatenate([softmax(predict(batch)) for batch in batches])
    told_B: NDArray[np.float64] = np.log(probs_BK[:, label].clip(_LEAST))
    return told_B


def inside(evidence_HW: NDArray[np.floating], patches: list[Patch]) -> NDArray[np.float64]:
    """Mean evidence in each patch, float64 [P]."""
    return np.array([evidence_HW[patch].mean() for patch in patches], dtype=np.float64)


def _spans(side: int, window: float, stride: float) -> Iterator[slice]:
    """Places of a window along a side; the last one ends where the side does."""
    long, step = max(1, round(window * side)), max(1, round(stride * side))
    for start in np.unique(np.append(np.arange(0, side - long, step), side - long)).tolist():
        yield slice(start, start + long)


def _drops(
    predict: Predictor,
    image_CHW: NDArray[np.float32],
    label: int,
    patches: list[Patch],
    blank_C: NDArray[np.float32],
) -> NDArray[np.float64]:
    covered = np.repeat(image_CHW[None], len(patches) + 1, axis=0)
    for number, (rows, columns) in enumerate(patches, 1):
        covered[number, :, rows, columns] = blank_C[:, None, None]
    told = log_probabilities(predict, covered, label)
    drops_P: NDArray[np.float64] = told[0] - told[1:]
    return drops_P


def _spread(
    drops_BP: NDArray[np.float64], patches: list[Patch], size: tuple[int, int]
) -> NDArray[np.float32]:
    total_BHW = np.zeros((len(drops_BP), *size))
    times_HW = np.zeros(size)
    for number, (rows, columns) in enumerate(patches):
        total_BHW[:, rows, columns] += drops_BP[:, number, None, None]
        times_HW[rows, columns] += 1
    evidence_BHW: NDArray[np.float32] = (total_BHW / times_HW.clip(1)).astype(np.float32)
    return evidence_BHW
