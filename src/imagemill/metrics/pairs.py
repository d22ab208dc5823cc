"""Two models on the same images.

Shapes: N images.
"""

import math
from typing import NamedTuple

from imagemill.errors import ShapeError
from imagemill.metrics.inputs import Z95, Labels


class Pairing(NamedTuple):
    """Two models on the same images: what one gains and the other loses."""

    only_first_right: int
    only_second_right: int
    mcnemar_p: float  # that both are right equally often, two-sided
    flip_rate: float  # share of images that get another class
    delta_top1: float  # of the second over the first
    delta_ci95: tuple[float, float]


def paired(first_N: Labels, second_N: Labels, labels_N: Labels) -> Pairing:
    """Compare the classes two models choose, image by image.

    Args:
        first_N: Class ids the first chooses, int [N].
        second_N: Those of the second, int [N].
        labels_N: True class ids, int [N].

    Raises:
        ShapeError: N is 0, or the lengths differ.

    Source:
        McNemar 1947, the exact test; the interval is Wald's with half an image added to each cell
        (Agresti and Min 2005).
    """
    if not len(labels_N) or not first_N.shape == second_N.shape == labels_N.shape:
        raise ShapeError(
            f"expected three lists of one length above 0, got {first_N.shape}, {second_N.shape} "
            f"and {labels_N.shape}"
        )
    first_right_N, second_right_N = first_N == labels_N, second_N == labels_N
    lost, won = (
        int((first_right_N & ~second_right_N).sum()),
        int((second_right_N & ~first_right_N).sum()),
    )
    count = len(labels_N)
    centre = (won - lost) / (count + 2)
    half = Z95 * math.sqrt(max((won + lost + 1) / (count + 2) - centre**2, 0) / (count + 2))
    return Pairing(
        only_first_right=lost,
        only_second_right=won,
        mcnemar_p=_exact_p(lost, won),
        flip_rate=float((first_N != second_N).mean()),
        delta_top1=(won - lost) / count,
        delta_ci95=(max(centre - half, -1.0), min(centre + half, 1.0)),
    )


def _exact_p(lost: int, won: int) -> float:
    """Two-sided p of a fair coin that fell so."""
    flips, term, tail = lost + won, 1, 0
    for number in range(min(lost, won) + 1):
        tail += term
        term = term * (flips - number) // (number + 1)
    return min(1.0, tail / 2 ** (flips - 1)) if flips else 1.0
