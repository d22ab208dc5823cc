"""Classify images with a registered version.

Shapes: B batch, C channels, H height, W width, K classes.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError, SourceError
from imagemill.loading import decode_image, to_input
from imagemill.metrics import softmax
from imagemill.params import Params
from imagemill.records import ModelCard
from imagemill.runtimes import open_variant
from imagemill.tracking.inputs import Encoded, check_inputs, read_inputs
from imagemill.tracking.versions import checked_folder, named_version, open_store

BATCH = 64

Probabilities = Callable[[NDArray[np.float32]], NDArray[np.floating]]  # [B, C, H, W] -> [B, K]


def predict(root: Path, params: Params, images: Sequence[Path], alias: str) -> list[dict[str, Any]]:
    """Classes and probabilities of image files, all or none.

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
    answers = list(predict_stream(root, params, list(map(str, images)), alias, stdin=io.BytesIO()))
    for answer in answers:
        if "error" in answer:
            raise SourceError(f"{answer['image']} {answer['error']}")
    return answers


def predict_stream(
    root: Path, params: Params, names: Sequence[str], alias: str, *, stdin: BinaryIO
) -> Iterator[dict[str, Any]]:
    """Answers as they come, in batches: however many images there are, one batch is in memory.

    Args:
        root: The project's root.
        params: Of them `register` (which registry) and `evaluate` (views and threads).
        names: Image files, folders, shards, `-` (see `inputs.read_inputs`).
        alias: Such as champion.
        stdin: What `-` stands for.

    Yields:
        For each image what `predict` returns; {image, error} for one that cannot be decoded.

    Raises:
        SourceError: an input is missing (then nothing is predicted) or cannot be read.
        UnknownNameError, IntegrityError, ServiceError: as `predict`.
    """
    check_inputs(names)
    store = open_store(root, params.register_)
    version = named_version(store, params.register_.model_name, alias)
    folder, card = checked_folder(root, store, version)
    probabilities = _open(folder, params)
    images = read_inputs(names, stdin)
    while batch := list(islice(images, BATCH)):
        yield from _answers(batch, card, probabilities)


def _answers(
    batch: Sequence[Encoded], card: ModelCard, probabilities: Probabilities
) -> Iterator[dict[str, Any]]:
    decoded = [_decode(image, card) for image in batch]
    good = [pixels for pixels in decoded if pixels is not None]
    probs = iter(probabilities(to_input(np.stack(good))) if good else ())
    for image, pixels in zip(batch, decoded, strict=True):
        if pixels is None:
            yield {"image": image.name, "error": "cannot be decoded: expected an image file"}
        else:
            yield _answer(image.name, next(probs), card.classes)


def _open(folder: Path, params: Params) -> Probabilities:
    predictor = open_variant(folder, threads=params.evaluate.threads)
    views = params.evaluate.views
    if views == ("identity",):
        return lambda images_BCHW: softmax(predictor(images_BCHW))
    # Brings torch with it: three seconds a plain prediction need not wait for.
    from imagemill.evaluate.views import averaged, with_views

    shown = with_views(predictor, views)
    return lambda images_BCHW: averaged(shown(images_BCHW), len(views))


def _answer(image: str, probs_K: NDArray[np.floating], classes: Sequence[str]) -> dict[str, Any]:
    best = int(probs_K.argmax())
    return {
        "image": image,
        "class": classes[best],
        "probability": float(probs_K[best]),
        "probabilities": dict(zip(classes, map(float, probs_K), strict=True)),
    }


def _decode(image: Encoded, card: ModelCard) -> NDArray[np.uint8] | None:
    try:
        return decode_image(image.data, input_shape=card.input_shape, resize=card.resize)
    except IntegrityError:
        return None
