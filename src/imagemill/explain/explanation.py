"""The stage: what a variant looks at, what lies next to its mistakes, and what that is worth.

Shapes: B images, N images of the pool.
"""

from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from imagemill.errors import ParamsError
from imagemill.explain.album import Album, verdict
from imagemill.explain.around import Around, look_around
from imagemill.explain.chosen import Chosen, choose_images
from imagemill.explain.evidence import INTEGRATED, judge, look
from imagemill.explain.faithfulness import Images
from imagemill.explain.layers import chosen_layers, feature_maps, first_filters
from imagemill.explain.subject import Subject, open_subject
from imagemill.loading import open_split
from imagemill.models.parts import linear_head_of
from imagemill.params import ExplainParams, Params
from imagemill.records import (
    REPORTS,
    SHARD_MANIFEST,
    ExplainedImage,
    ExplainedMistake,
    Explanation,
    ShardManifest,
    Skipped,
    TrainNeighbour,
    publishing_folder,
)
from imagemill.steps import Step, directly

EXPLAIN = REPORTS / "explain"
RECORD = "explain.json"
_EMBEDDINGS = "embeddings: neighbours of mistakes, the map and the models on them"


def explain(
    root: Path, params: Params, *, log: Callable[[str], None], step: Step = directly
) -> Explanation:
    """Explain a variant on a few images of test, and write reports/explain/.

    Args:
        root: The project's root.
        params: All sections.
        log: Gets a line for what was found, and for what was left out.
        step: Calls what takes long.

    Returns:
        What was drawn and found.

    Raises:
        ParamsError: a name in `explain.layers` does not exist.
        IntegrityError: the variant or the data is missing or damaged.
        DiskError: reports/ cannot be written.
    """
    torch.set_num_threads(params.evaluate.threads)
    subject, section = open_subject(root, params), params.explain
    shape, classes = subject.card.input_shape, subject.card.classes
    test = open_split(root, "test", input_shape=shape, loading=params.loading)
    chosen = step(choose_images, subject.predict, test, classes, section)
    images = _images(root, chosen)
    seen = step(look, subject, images, section)
    curves, scores = step(judge, subject, images, seen, section)
    around = step(_look_around, root, subject, chosen, params)
    with publishing_folder(root / EXPLAIN) as folder:
        album = Album(folder)
        album.saliency(chosen, seen)
        album.curves(curves, scores)
        maps, files = step(_draw_layers, album, subject, chosen, images, section)
        if isinstance(around, Around):
            album.around(chosen, around)
        explanation = Explanation(
            variant=subject.card.variant,
            sha256=subject.card.sha256,
            runtime=subject.card.runtime,
            gradcam_layers=list(seen.layers),
            features_layers=maps,
            integration_gap=seen.gap,
            judged_images=len(chosen.judged_B),
            faithfulness=scores,
            mistakes=_mistakes(chosen, around),
            on_embeddings=around.models if isinstance(around, Around) else [],
            skipped=_skipped(subject, chosen, around, section),
            pictures=album.pictures,
            images=_explained(chosen, files),
        )
        explanation.write(folder / RECORD)
    _tell(explanation, log)
    return explanation


def _images(root: Path, chosen: Chosen) -> Images:
    """Those that are judged; what stands for nothing is the mean of train."""
    data = ShardManifest.read(root / SHARD_MANIFEST)
    return Images(
        images_BCHW=chosen.images(chosen.judged_B),
        predicted_B=chosen.predicted_N[chosen.judged_B],
        hashes_B=chosen.test.hashes_N[chosen.pool_N[chosen.judged_B]],
        blank_C=np.array(data.pixel_mean, dtype=np.float32),
    )


def _look_around(root: Path, subject: Subject, chosen: Chosen, params: Params) -> Around | Skipped:
    """What the embeddings say, or why there are none."""
    if subject.model is None:
        return Skipped(what=_EMBEDDINGS, why=subject.why_no_net)
    try:
        linear_head_of(subject.model)
    except ParamsError as error:
        return Skipped(what=_EMBEDDINGS, why=str(error))
    return look_around(root, subject, chosen, params)


def _draw_layers(
    album: Album, subject: Subject, chosen: Chosen, images: Images, section: ExplainParams
) -> tuple[list[str], list[str]]:
    """Filters and feature maps: the layers, and a file for each image shown."""
    if subject.model is None:
        return [], []
    shown_BCHW = images.images_BCHW[: chosen.num_shown]
    layers = chosen_layers(subject.model, shown_BCHW[:1], section.layers)
    album.filters(first_filters(subject.model))
    return layers, album.maps(chosen, feature_maps(subject.model, shown_BCHW, layers))


def _skipped(
    subject: Subject, chosen: Chosen, around: Around | Skipped, section: ExplainParams
) -> list[Skipped]:
    found = []
    if subject.model is None:
        gradients = f"Grad-CAM, HiResCAM, {INTEGRATED.lower()}, feature maps and filters"
        found.append(Skipped(what=gradients, why=subject.why_no_net))
    if isinstance(around, Skipped):
        return [*found, around]
    if not len(chosen.mistakes):
        why = f"none of the {len(chosen.pool_N)} test images that were looked at is a mistake"
        found.append(Skipped(what="neighbours of mistakes", why=why))
    if section.boosting_rounds is None:
        found.append(Skipped(what="gradient boosting", why="explain.boosting_rounds is null"))
    return found


def _mistakes(chosen: Chosen, around: Around | Skipped) -> list[ExplainedMistake]:
    if isinstance(around, Skipped):
        return []
    shown = chosen.shown(chosen.mistakes)
    return [
        ExplainedMistake(
            key=chosen.key(position),
            true=mistake.true,
            predicted=mistake.predicted,
            neighbours=[
                TrainNeighbour(key=one.key, label=one.label, similarity=one.similarity)
                for one in neighbours
            ],
        )
        for position, mistake, neighbours in zip(
            chosen.mistakes.tolist(), shown, around.neighbours, strict=True
        )
    ]


def _explained(chosen: Chosen, files: list[str]) -> list[ExplainedImage]:
    shown_B = chosen.judged_B[: chosen.num_shown]
    return [
        ExplainedImage(
            key=chosen.key(position),
            true=shown.true,
            predicted=shown.predicted,
            probability=shown.probability,
            features=file,
        )
        for position, shown, file in zip_longest(shown_B.tolist(), chosen.shown(shown_B), files)
    ]


def _tell(explanation: Explanation, log: Callable[[str], None]) -> None:
    mistakes = sum(image.true != image.predicted for image in explanation.images)
    log(
        f"explain {explanation.variant}: {len(explanation.images)} images of test, {mistakes} of "
        f"them mistakes. {verdict(explanation.faithfulness)}"
    )
    for left_out in explanation.skipped:
        log(f"left out: {left_out.what}: {left_out.why}")
