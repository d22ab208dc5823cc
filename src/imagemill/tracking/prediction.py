"""Classify images with a registered version.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError, SourceError
from imagemill.loading import decode_image, to_input
from imagemill.metrics import softmax
from imagemill.params import Params
from imagemill.records import ModelCard
from imagemill.runtimes import open_variant
from imagemill.tracking.versions import checked_folder, named_version, open_store

BATCH = 64


def predict(root: Path, params: Params, images: Sequence[Path], alias: str) -> list[dict[str, Any]]:
    """Classes and probabilities of image files.

    Args:
        root: The project's root.
        params: Of them `register` (which registry) and `evaluate` (views and threads).
        images: Image files; relative paths start at the current folder.
        alias: Such as champion.

    Returns:
        For each image {image, class, probability, probabilities: {class: probability}}.

    Raises:
        SourceError: an image is missing or cannot be decoded; nothing is predicted then.
        UnknownNameError: no version has this alias.
        IntegrityError: the registered files are not those that were registered.
        ServiceError: there is no registry yet, or it cannot be used.
    """
    encoded = [_read(image) for image in images]
    store = open_store(root, params.register_)
    version = named_version(store, params.register_.model_name, alias)
    folder, card = checked_folder(root, store, version)
    pixels_BHWC = np.stack(
        [_decode(image, data, card) for image, data in zip(images, encoded, strict=True)]
    )
    probs_BK = _probabilities(folder, params, to_input(pixels_BHWC))
    return [
        _answer(image, probs_K, card.classes)
        for image, probs_K in zip(images, probs_BK, strict=True)
    ]


def _probabilities(
    folder: Path, params: Params, images_BCHW: NDArray[np.float32]
) -> NDArray[np.floating]:
    predictor = open_variant(folder, threads=params.evaluate.threads)
    views = params.evaluate.views
    starts = range(0, len(images_BCHW), BATCH)
    batches = [images_BCHW[start : start + BATCH] for start in starts]
    if views == ("identity",):
        return np.concatenate([softmax(predictor(batch)) for batch in batches])
    # Brings torch with it: three seconds a plain prediction need not wait for.
    from imagemill.evaluate.views import averaged, with_views

    shown = with_views(predictor, views)
    return np.concatenate([averaged(shown(batch), len(views)) for batch in batches])


def _answer(image: Path, probs_K: NDArray[np.floating], classes: Sequence[str]) -> dict[str, Any]:
    best = int(probs_K.argmax())
    return {
        "image": str(image),
        "class": classes[best],
        "probability": float(probs_K[best]),
        "probabilities": dict(zip(classes, map(float, probs_K), strict=True)),
    }


def _read(image: Path) -> bytes:
    try:
        return image.read_bytes()
    except OSError as error:
        raise SourceError(f"{image} cannot be read: {error.strerror or error}") from None


def _decode(image: Path, data: bytes, card: ModelCard) -> NDArray[np.uint8]:
    try:
        return decode_image(data, input_shape=card.input_shape, resize=card.resize)
    except IntegrityError:
        raise SourceError(f"{image} cannot be decoded: expected an image file") from None
