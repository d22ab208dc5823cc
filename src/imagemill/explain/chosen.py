"""The test images that are explained, and what the model says of them.

Shapes: N images of the pool, B images judged, C channels, H height, W width, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.explain.canvas import Shown
from imagemill.explain.choice import choose, choose_mistakes, pool
from imagemill.loading import SplitImages, images_at_once, to_input
from imagemill.metrics import softmax
from imagemill.params import ExplainParams
from imagemill.runtimes import Predictor

_MOST = 250  # images asked about at once


class Chosen(NamedTuple):
    """Images of test.

    test: The split.
    classes: Names.
    pool_N: Positions in test of all that were looked at.
    predicted_N, probability_N: What the model says of each, and how surely.
    judged_B: Positions in the pool of those that methods are judged on; first come those shown.
    num_shown: How many of them are shown.
    mistakes: Positions in the pool of the mistakes whose neighbours are looked for.
    """

    test: SplitImages
    classes: list[str]
    pool_N: NDArray[np.intp]
    predicted_N: NDArray[np.int64]
    probability_N: NDArray[np.float64]
    judged_B: NDArray[np.intp]
    num_shown: int
    mistakes: NDArray[np.intp]

    def images(self, chosen_B: NDArray[np.intp]) -> NDArray[np.float32]:
        """Images [B, C, H, W] at positions in the pool."""
        return to_input(self.test.take(self.pool_N[chosen_B]))

    def key(self, position: int) -> str:
        return str(self.test.keys[int(self.pool_N[position])])

    def shown(self, chosen_B: NDArray[np.intp]) -> list[Shown]:
        """Images at positions in the pool, with what the model says of them."""
        targets_B = self.test.targets_N[self.pool_N[chosen_B]]
        return [
            Shown(
                image_CHW=image_CHW,
                true=self.classes[target],
                predicted=self.classes[self.predicted_N[position]],
                probability=float(self.probability_N[position]),
            )
            for image_CHW, target, position in zip(
                self.images(chosen_B), targets_B, chosen_B, strict=True
            )
        ]


def choose_images(
    predict: Predictor, test: SplitImages, classes: list[str], params: ExplainParams
) -> Chosen:
    """Ask the model about a pool of images, and choose those to explain."""
    seed = params.seed
    pool_N = pool(test.hashes_N, count=params.test_images, seed=seed)
    at_once = images_at_once(*test.input_shape[1:], most=_MOST)
    batches = np.split(pool_N, range(at_once, len(pool_N), at_once))
    probs_NK = np.concatenate([softmax(predict(to_input(test.take(batch)))) for batch in batches])
    predicted_N = probs_NK.argmax(1)
    about = (test.hashes_N[pool_N], test.targets_N[pool_N], predicted_N)
    shown_B = choose(*about, count=params.images, seed=seed)
    more_B = choose(*about, count=params.judged_images, seed=seed)
    # Those shown first, each once.
    judged = list(dict.fromkeys([*shown_B.tolist(), *more_B.tolist()]))[: params.judged_images]
    return Chosen(
        test=test,
        classes=classes,
        pool_N=pool_N,
        predicted_N=predicted_N,
        probability_N=probs_NK.max(1),
        judged_B=np.array(judged, dtype=np.intp),
        num_shown=len(shown_B),
        mistakes=choose_mistakes(*about, count=params.images, seed=seed),
    )
