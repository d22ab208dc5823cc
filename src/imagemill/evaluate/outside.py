"""Images that are not of this data: other images of the same classes, or of none of them.

Shapes: B batch, K classes, M images of the set, N images of test.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from imagemill.errors import IntegrityError, SourceError
from imagemill.evaluate.panel import BATCH, Panel
from imagemill.evaluate.quality import Answers
from imagemill.loading import decode_image, to_input
from imagemill.metrics import area_under_roc, expected_calibration_error, wilson_interval
from imagemill.records import ModelCard
from imagemill.sources import RawImage, RawReader, open_source

_TRUE_POSITIVES = 0.95


class Outside(NamedTuple):
    """What all variants say of a set.

    source, digest: The set and the sha256 over the bytes of its images.
    num_left_out: Images that could not be decoded, or whose class the model does not know.
    answers: Variant -> labels (-1 where there is none) and probabilities.
    """

    source: str
    digest: str
    num_left_out: int
    answers: dict[str, Answers]

    @property
    def told(self) -> dict[str, Any]:
        """Where figures come from."""
        (some, *_) = self.answers.values()
        return {
            "source": self.source,
            "digest": self.digest,
            "num_images": len(some.labels_N),
            "num_left_out": self.num_left_out,
        }


def ask_outside(
    root: Path,
    source: str,
    panel: Panel,
    card: ModelCard,
    *,
    count: int,
    labelled: bool,
) -> Outside:
    """Show a source to several variants; each image is decoded once.

    Args:
        root: The project's root, where relative paths start.
        source: As `ingest.source` names one; of given splits only `test` counts.
        panel: The variants.
        card: Of the base: shape, resize, classes.
        count: How many images are taken at most.
        labelled: Whether only images of the model's classes count.

    Raises:
        SourceError: the source cannot be read, or no image of it counts.
    """
    probs: dict[str, list[NDArray[np.float32]]] = {name: [] for name in panel.variants}
    ids = {name: number for number, name in enumerate(card.classes)}
    chosen, unknown = _chosen(root, source, count, ids if labelled else None)
    digest, labels, damaged = hashlib.sha256(), list[int](), 0
    with RawReader(root) as reader:
        for start in range(0, len(chosen), BATCH):
            decoded = list(_decoded(chosen[start : start + BATCH], reader, card, digest))
            good = [(image, pixels) for image, pixels in decoded if pixels is not None]
            damaged += len(decoded) - len(good)
            if not good:
                continue
            labels += [ids.get(image.target or "", -1) for image, _ in good]
            images_BCHW = to_input(np.stack([pixels for _, pixels in good]))
            for name, probs_BK in panel.probabilities(images_BCHW).items():
                probs[name].append(probs_BK)
    if not labels:
        raise SourceError(
            f"{source} holds no image that can be evaluated: {_expected(ids, labelled=labelled)}"
        )
    answers = {name: Answers(np.array(labels), np.concatenate(probs[name])) for name in probs}
    return Outside(source, digest.hexdigest(), unknown + damaged, answers)


def shift_scores(outside: Outside, variant: str, *, bins: int, test_top1: float) -> dict[str, Any]:
    """Accuracy on a shifted set, and how far it lies below that on test."""
    labels_M, probs_MK = outside.answers[variant]
    right = int((probs_MK.argmax(1) == labels_M).sum())
    top1 = right / len(labels_M)
    return {
        **outside.told,
        "top1": top1,
        "top1_ci95": list(wilson_interval(right, len(labels_M))),
        "drop": test_top1 - top1,
        "ece": expected_calibration_error(probs_MK, labels_M, num_bins=bins),
    }


def novelty_scores(outside: Outside, variant: str, test: Answers) -> dict[str, Any]:
    """Whether confidence tells images of the data from images of another set.

    Source:
        Hendrycks and Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
        Examples in Neural Networks": the largest probability is the score.
    """
    known_N, other_M = test.probs_NK.max(1), outside.answers[variant].probs_NK.max(1)
    threshold = np.quantile(known_N, 1 - _TRUE_POSITIVES)
    return {
        **outside.told,
        "auroc": area_under_roc(known_N, other_M),
        "false_positives_at_95": float((other_M >= threshold).mean()),
        "mean_confidence": float(other_M.mean()),
    }


def _chosen(
    root: Path, source: str, count: int, ids: Mapping[str, int] | None
) -> tuple[list[RawImage], int]:
    """The images with the smallest hashes, and how many are of a class the model does not know."""
    unknown, has_test = 0, False

    def candidates() -> Iterator[tuple[bool, bytes, RawImage]]:
        nonlocal unknown, has_test
        for image in open_source(root, source).images():
            if ids is not None and image.target not in ids:
                unknown += 1
                continue
            has_test |= image.split == "test"
            yield image.split != "test", hashlib.sha256(image.path.encode()).digest(), image

    first = nsmallest(count, candidates(), key=lambda candidate: candidate[:2])
    return [image for other, _, image in first if not (has_test and other)], unknown


def _decoded(
    images: Sequence[RawImage],
    reader: RawReader,
    card: ModelCard,
    digest: "hashlib._Hash",
) -> Iterator[tuple[RawImage, NDArray[np.uint8] | None]]:
    for image in images:
        content = reader.read(image.uri, image.offset, image.size_bytes)
        digest.update(hashlib.sha256(content).digest())
        try:
            pixels = decode_image(content, input_shape=card.input_shape, resize=card.resize)
            yield image, pixels
        except IntegrityError:
            yield image, None


def _expected(ids: Mapping[str, int], *, labelled: bool) -> str:
    return f"expected images of the classes {', '.join(ids)}" if labelled else "expected images"
