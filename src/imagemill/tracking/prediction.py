"""Classify images with a registered version.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagemill import records
from imagemill.errors import IntegrityError, ServiceError, SourceError, UnknownNameError
from imagemill.loading import decode_image, to_input
from imagemill.metrics import softmax
from imagemill.params import Params
from imagemill.records import ModelCard
from imagemill.runtimes import open_variant
from imagemill.tracking.address import sqlite_file
from imagemill.tracking.entries import Version

BATCH = 64
DOWNLOADS = records.STATE / "registry"


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
    folder, card = _checked_folder(root, params, alias)
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


def _checked_folder(root: Path, params: Params, alias: str) -> tuple[Path, ModelCard]:
    """The folder of the version an alias names, once its bytes are known to be those registered."""
    version, fetched = _fetch(root, params, alias)
    folder = fetched / "data" / version.tags["variant"]
    card_path = folder / "model.json"
    _compare(card_path, version.tags["card_sha256"], version)
    card = ModelCard.read(card_path)
    _compare(folder / card.file, version.tags["sha256"], version)
    return folder, card


def _fetch(root: Path, params: Params, alias: str) -> tuple[Version, Path]:
    settings = params.register_
    file = sqlite_file(root, settings.tracking_uri)
    if file is not None and not file.is_file():
        raise ServiceError(
            f"there is no registry yet: {file} does not exist; `imagemill run` makes it"
        )
    from imagemill.tracking.store import Store

    store = Store(root, settings)
    versions = store.aliases()
    if not versions:
        raise ServiceError(
            f"{settings.model_name!r} has no registered version yet; `imagemill run` makes one"
        )
    if alias not in versions:
        raise UnknownNameError("alias", alias, versions)
    version = versions[alias]
    return version, store.fetch(version, root / DOWNLOADS / version.tags["sha256"])


def _compare(path: Path, expected: str, version: Version) -> None:
    if not path.is_file():
        raise IntegrityError(f"{path} of version {version.number} is missing in the registry")
    actual = records.sha256_of_file(path)
    if actual != expected:
        raise IntegrityError(
            f"{path} is not what was registered as version {version.number}: sha256 {actual[:12]}, "
            f"the registry says {expected[:12]}; refused. Delete mlflow.db and mlartifacts/, then "
            "`imagemill run` fills the registry again from models/"
        )
