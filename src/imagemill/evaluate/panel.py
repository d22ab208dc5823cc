"""All variants asked the same images, as many at a time as there are cores.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np
from numpy.typing import NDArray

from imagemill.evaluate.machine import num_cores
from imagemill.evaluate.views import averaged, with_views
from imagemill.loading import images_at_once
from imagemill.runtimes import Predictor

BATCH = 256


class Panel:
    """A context manager that holds the threads variants are asked in.

    Runtimes compute outside Python's lock, so that variants answer side by side.
    """

    def __init__(
        self, predictors: Mapping[str, Predictor], views: Sequence[str], *, threads: int
    ) -> None:
        """Open nothing yet.

        Args:
            predictors: Variant -> predictor.
            views: Names in `VIEWS`; their probabilities are averaged.
            threads: That each predictor was opened with.
        """
        self._shown = {name: with_views(predict, views) for name, predict in predictors.items()}
        self._num_views = len(views)
        self._workers = max(1, num_cores() // threads)

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self._workers)
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    @property
    def variants(self) -> list[str]:
        """Their names."""
        return list(self._shown)

    def probabilities(self, images_BCHW: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Variant -> float32 [B, K]; each row sums to 1.

        Args:
            images_BCHW: float32 in 0..1.
        """
        waiting = {
            name: self._pool.submit(self._asked, predict, images_BCHW)
            for name, predict in self._shown.items()
        }
        return {name: told.result() for name, told in waiting.items()}

    def _asked(self, predict: Predictor, images_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Large images in parts, for all workers and views take their memory at once."""
        height, width = images_BCHW.shape[2:]
        part = images_at_once(height, width * self._num_views, most=BATCH)
        answers = [
            averaged(predict(images_BCHW[start : start + part]), self._num_views)
            for start in range(0, len(images_BCHW), part)
        ]
        return np.concatenate(answers)
