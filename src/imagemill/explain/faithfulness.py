"""Whether a saliency map means anything: beside occlusion, and beside maps drawn at random.

Shapes: B images, C channels, H height, W width, S steps, P patches.
"""

from collections.abc import Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from imagemill.explain.occlusion import Occlusion, inside, log_probabilities
from imagemill.records import Faithfulness
from imagemill.runtimes import Predictor

OCCLUSION, RANDOM = "Occlusion", "Random"
_SURE = 2.0  # standard errors

Maps = NDArray[np.floating]  # [B, H, W]


class Images(NamedTuple):
    """What is judged on.

    images_BCHW: float32 in 0..1.
    predicted_B: The classes that are explained.
    hashes_B: `randomness.key_hashes` of the keys; random maps follow from them.
    blank_C: What stands for a deleted pixel, one value a channel.
    """

    images_BCHW: NDArray[np.float32]
    predicted_B: NDArray[np.int64]
    hashes_B: NDArray[np.uint64]
    blank_C: NDArray[np.float32]


class Curves(NamedTuple):
    """Probability of the predicted class after each step, of each image: [B, S + 1]."""

    deletion: NDArray[np.float64]
    insertion: NDArray[np.float64]


def follow(
    predict: Predictor, images: Images, evidence_BHW: Maps, *, steps: int, blur: float
) -> Curves:
    """Delete, and insert, pixels in the order of their evidence.

    Args:
        predict: Images -> logits.
        images: What is judged on.
        evidence_BHW: Of each pixel; among equals the order is drawn.
        steps: S, in each of which as many pixels change.
        blur: Standard deviation of the blur that insertion starts from, as a share of the side.

    Source:
        Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models":
        deleted pixels become the mean of train, insertion starts from a blurred image; their blur
        is a fixed kernel, ours grows with the image.
    """
    deletion: list[NDArray[np.float64]] = []
    insertion: list[NDArray[np.float64]] = []
    for number, image_CHW in enumerate(images.images_BCHW):
        order = _order(evidence_BHW[number], int(images.hashes_B[number]))
        blank_CHW = np.broadcast_to(images.blank_C[:, None, None], image_CHW.shape)
        label = int(images.predicted_B[number])
        for curves, start_CHW, end_CHW in (
            (deletion, image_CHW, blank_CHW),
            (insertion, blurred(image_CHW, blur), image_CHW),
        ):
            path = _path(start_CHW, end_CHW, order, steps)
            curves.append(np.exp(log_probabilities(predict, path, label)))
    return Curves(np.stack(deletion), np.stack(insertion))


def random_curves(
    predict: Predictor, images: Images, *, maps: int, seed: int, steps: int, blur: float
) -> Curves:
    """The mean of as many random maps for each image."""
    size = images.images_BCHW.shape[2:]
    drawn = []
    for number in range(maps):
        evidence = [
            np.random.default_rng([seed, number, int(hash_)]).random(size)
            for hash_ in images.hashes_B
        ]
        drawn.append(follow(predict, images, np.stack(evidence), steps=steps, blur=blur))
    return Curves(*(np.mean(kind, axis=0) for kind in zip(*drawn, strict=True)))


def judged(
    curves: Mapping[str, Curves], evidence: Mapping[str, Maps], occlusion: Occlusion
) -> list[Faithfulness]:
    """Scores of each method, random maps last.

    Args:
        curves: Method -> curves, `RANDOM` among them.
        evidence: Method -> evidence [B, H, W].
        occlusion: To compare ranks with.
    """
    chance = curves[RANDOM]
    found = []
    for method, evidence_BHW in evidence.items():
        gains = (
            _Gain.of(area(chance.deletion) - area(curves[method].deletion)),
            _Gain.of(area(curves[method].insertion) - area(chance.insertion)),
        )
        agreement = None if method == OCCLUSION else agreement_with(occlusion, evidence_BHW)
        found.append(_score(method, curves[method], gains, agreement))
    return [*found, _score(RANDOM, chance, None, None)]


def agreement_with(occlusion: Occlusion, evidence_BHW: Maps) -> float:
    """Spearman's correlation over patches, of the evidence inside with what covering them costs.

    The mean over images; an image of which either says nothing counts 0.
    """
    pairs = zip(evidence_BHW, occlusion.drops_BP, strict=True)
    return float(
        np.mean([_rank_correlation(inside(one, occlusion.patches), drops) for one, drops in pairs])
    )


def area(curves_BS: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area under each curve over the share of pixels 0..1, float64 [B]."""
    found: NDArray[np.float64] = (curves_BS[:, 1:] + curves_BS[:, :-1]).mean(1) / 2
    return found


def blurred(image_CHW: NDArray[np.float32], blur: float) -> NDArray[np.float32]:
    """An image behind frosted glass; `blur` is a standard deviation as a share of the height."""
    sigma = blur * image_CHW.shape[1]
    planes = [cv2.GaussianBlur(plane_HW, (0, 0), sigma) for plane_HW in image_CHW]
    return np.stack(planes).astype(np.float32)


def _order(evidence_HW: Maps, hash_: int) -> NDArray[np.intp]:
    """Pixels, the most evidence first."""
    flat = evidence_HW.ravel()
    ties = np.random.default_rng(hash_).permutation(flat.size)
    return np.lexsort((ties, -flat))


def _path(
    start_CHW: NDArray[np.float32],
    end_CHW: NDArray[np.float32],
    order: NDArray[np.intp],
    steps: int,
) -> NDArray[np.float32]:
    """Images from the start to the end: [S + 1, C, H, W]."""
    channels = len(start_CHW)
    start, end = start_CHW.reshape(channels, -1), end_CHW.reshape(channels, -1)
    path = np.repeat(start[None], steps + 1, axis=0)
    for step in range(1, steps + 1):
        changed = order[: round(order.size * step / steps)]
        path[step][:, changed] = end[:, changed]
    return path.reshape(steps + 1, *start_CHW.shape)


def _rank_correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    ranks, others = (rankdata(values) - (len(values) + 1) / 2 for values in (ours, theirs))
    norm = float(np.sqrt((ranks**2).sum() * (others**2).sum()))
    return float(ranks @ others) / norm if norm else 0.0


class _Gain(NamedTuple):
    """How much better than chance, and the standard error of that over images."""

    mean: float
    error: float

    @classmethod
    def of(cls, gains_B: NDArray[np.float64]) -> "_Gain":
        """Of one image nothing is known but the gain: it is as uncertain as it is large."""
        mean = float(gains_B.mean())
        if len(gains_B) < 2:
            return cls(mean, abs(mean))
        return cls(mean, float(gains_B.std(ddof=1) / np.sqrt(len(gains_B))))

    @property
    def is_sure(self) -> bool:
        return self.mean > _SURE * self.error


def _score(
    method: str, curves: Curves, gains: tuple[_Gain, _Gain] | None, agreement: float | None
) -> Faithfulness:
    deletion, insertion = gains or (None, None)
    return Faithfulness(
        method=method,
        deletion=float(area(curves.deletion).mean()),
        insertion=float(area(curves.insertion).mean()),
        deletion_gain=deletion and deletion.mean,
        deletion_gain_error=deletion and deletion.error,
        insertion_gain=insertion and insertion.mean,
        insertion_gain_error=insertion and insertion.error,
        beats_random=all(gain.is_sure for gain in gains) if gains else None,
        occlusion_correlation=agreement,
    )
