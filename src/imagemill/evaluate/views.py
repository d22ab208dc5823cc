"""VIEWS: one image shown to a net in several ways, whose probabilities are averaged.

Shapes: B batch, C channels, H height, W width, K classes, V views.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from imagemill.metrics import softmax
from imagemill.runtimes import Predictor

Images = NDArray[np.float32]


def shifted(images_BCHW: Images, *, down: int, right: int) -> Images:
    """Moved by whole pixels; what enters repeats the edge."""
    height, width = images_BCHW.shape[2:]
    rows = np.clip(np.arange(height) - down, 0, height - 1)
    columns = np.clip(np.arange(width) - right, 0, width - 1)
    return images_BCHW[:, :, rows[:, None], columns]


def _moved(images_BCHW: Images, *, down: int, right: int) -> Images:
    """Moved by a 32nd of the side, at least a pixel: less would show a large image unchanged."""
    step = max(1, round(images_BCHW.shape[2] / 32))
    return shifted(images_BCHW, down=down * step, right=right * step)


VIEWS: dict[str, Callable[[Images], Images]] = {
    "identity": lambda images_BCHW: images_BCHW,
    "mirror": lambda images_BCHW: images_BCHW[..., ::-1],
    "up": partial(_moved, down=-1, right=0),
    "down": partial(_moved, down=1, right=0),
    "left": partial(_moved, down=0, right=-1),
    "right": partial(_moved, down=0, right=1),
}


def with_views(predict: Predictor, views: Sequence[str]) -> Predictor:
    """A predictor of the same images that returns the logits of all views at once.

    Args:
        predict: float32 [B, C, H, W] -> logits [B, K].
        views: Names in `VIEWS`.

    Returns:
        float32 [B, C, H, W] -> logits [V * B, K], view by view, from one call of `predict`.
    """
    if tuple(views) == ("identity",):
        return predict

    def predict_views(images_BCHW: Images) -> NDArray[np.float32]:
        return predict(np.concatenate([VIEWS[view](images_BCHW) for view in views]))

    return predict_views


def averaged(logits_VBK: NDArray[np.float32], num_views: int) -> NDArray[np.float32]:
    """Mean probabilities over the views.

    Args:
        logits_VBK: What `with_views` returned, [V * B, K].
        num_views: V.

    Returns:
        float32 [B, K]; each row sums to 1.
    """
    probs_VBK = softmax(logits_VBK).reshape(num_views, -1, logits_VBK.shape[1])
    probs_BK: NDArray[np.float32] = probs_VBK.mean(0).astype(np.float32)
    return probs_BK
