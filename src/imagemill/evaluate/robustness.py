"""How much worse a variant gets when images do.

Images are of val: promotion asks for this figure, and what decides reads no test image.

Shapes: B batch, C channels, H height, W width, K classes, N images.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemill.evaluate.panel import BATCH, Panel
from imagemill.loading import SplitImages, to_input
from imagemill.randomness import mixed

# Corruption -> mistakes at each severity.
Mistakes = dict[str, list[int]]

_CHOICE, _DRAWS = 0xC0A1, 0xC0A2  # the purposes of these draws


def ask_corrupted(panel: Panel, images: SplitImages, *, count: int) -> dict[str, Mistakes]:
    """Show all variants the same images under every corruption and severity.

    Args:
        panel: The variants.
        images: The split they are taken from.
        count: How many images; all if there are fewer.
    """
    from imagemill.evaluate.corruptions import CORRUPTIONS, SEVERITIES, corrupt

    chosen_N = np.argsort(mixed(images.hashes_N, _CHOICE), kind="stable")[:count]
    mistakes: dict[str, Mistakes] = {
        variant: {name: [0] * len(SEVERITIES) for name in CORRUPTIONS} for variant in panel.variants
    }
    for start in range(0, len(chosen_N), BATCH):
        positions_B = np.sort(chosen_N[start : start + BATCH])
        clean_BCHW, labels_B = to_input(images.take(positions_B)), images.targets_N[positions_B]
        for number, name in enumerate(CORRUPTIONS):
            for severity in SEVERITIES:
                seed = _seed(images.hashes_N[positions_B], number, severity)
                worse_BCHW = corrupt(clean_BCHW, name, severity, seed=seed)
                for variant, probs_BK in panel.probabilities(worse_BCHW).items():
                    wrong = int((probs_BK.argmax(1) != labels_B).sum())
                    mistakes[variant][name][severity - 1] += wrong
    return mistakes


def robustness(own: Mistakes, base: Mistakes, *, num_images: int) -> dict[str, Any]:
    """The fields of `records.Evaluation` that say how robust a variant is.

    Args:
        own: Of the variant.
        base: Of the base, on the same images.
        num_images: How many these were.

    Source:
        Hendrycks and Dietterich 2019, mean corruption error: per corruption mistakes over all
        severities by those of the reference, then the mean. Ours adds half a mistake to both, so
        that a base without any leaves a number.
    """
    shares = {name: [count / num_images for count in counts] for name, counts in own.items()}
    relative = {name: (sum(counts) + 0.5) / (sum(base[name]) + 0.5) for name, counts in own.items()}
    return {
        "corruption": {
            "num_images": num_images,
            "mean_error": float(np.mean(list(shares.values()))),
            "errors": shares,
            "relative_errors": relative,
        },
        "relative_corruption_error": float(np.mean(list(relative.values()))),
    }


def _seed(hashes_B: NDArray[np.uint64], number: int, severity: int) -> int:
    """The same for a batch that begins with this image."""
    return int(mixed(hashes_B[:1], _DRAWS, number, severity)[0] >> np.uint64(1))
