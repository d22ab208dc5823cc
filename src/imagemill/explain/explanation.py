"""The stage: pictures of what the base looks at, on a few images of test.

Shapes: B images, N images of the pool, K classes.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from imagemill.explain.choice import choose, pool
from imagemill.explain.pictures import Shown, draw_filters, draw_heats, draw_maps
from imagemill.explain.saliency import Saliency, look_into
from imagemill.loading import SplitImages, open_split, to_input
from imagemill.metrics import softmax
from imagemill.models import load_model, model_named
from imagemill.params import BASE, Params
from imagemill.records import (
    MODELS,
    REPORTS,
    ExplainedImage,
    Explanation,
    ModelCard,
    Picture,
    publishing_folder,
)
from imagemill.steps import Step, directly

EXPLAIN = REPORTS / "explain"
GRADCAM, FILTERS, RECORD = "gradcam.png", "filters.png", "explain.json"
_BATCH = 250


def explain(
    root: Path, params: Params, *, log: Callable[[str], None], step: Step = directly
) -> Explanation:
    """Draw Grad-CAM, feature maps and filters of the base, and write reports/explain/.

    Args:
        root: The project's root.
        params: All sections.
        log: Gets one line.
        step: Calls what takes long.

    Returns:
        What was drawn.

    Raises:
        IntegrityError: models/base or the data is missing or damaged.
        DiskError: reports/ cannot be written.
    """
    torch.set_num_threads(params.evaluate.threads)
    model, card = load_model(root / MODELS / BASE)
    test = open_split(root, "test", input_shape=card.input_shape, loading=params.loading)
    keys, chosen = step(_choose_images, model, test, card, params)
    images_BCHW = np.stack([shown.image_CHW for shown in chosen])
    predicted_B = np.array([card.classes.index(shown.predicted) for shown in chosen])
    saliency = step(look_into, model, images_BCHW, predicted_B, evidence=_evidence(card))
    with publishing_folder(root / EXPLAIN) as folder:
        explanation = step(_draw, folder, card, keys, chosen, saliency)
        explanation.write(folder / RECORD)
    mistakes = sum(not shown.correct for shown in chosen)
    log(
        f"explain: {len(chosen)} images of test, {mistakes} of them mistakes; Grad-CAM of "
        f"{saliency.heat_layer}, {saliency.maps_BMHW.shape[1]} maps of {saliency.map_layer}"
    )
    return explanation


def _evidence(card: ModelCard) -> str | None:
    """The layer that explains this model best, where its table names one."""
    layer = model_named(card.architecture.name).evidence
    return layer and f"1.{layer}"  # behind the normalisation


def _choose_images(
    model: nn.Module, test: SplitImages, card: ModelCard, params: Params
) -> tuple[list[str], list[Shown]]:
    """Keys and images to explain, with what the model says of them."""
    seed, count = params.explain.seed, params.explain.images
    pool_N = pool(test.hashes_N, seed=seed)
    batches = [pool_N[start : start + _BATCH] for start in range(0, len(pool_N), _BATCH)]
    probs_NK = np.concatenate([_probabilities(model, test, batch) for batch in batches])
    predicted_N = probs_NK.argmax(1)
    labels_N, hashes_N = test.targets_N[pool_N], test.hashes_N[pool_N]
    picked_B = choose(hashes_N, labels_N, predicted_N, count=count, seed=seed)
    images_BCHW = to_input(test.take(pool_N[picked_B]))
    shown = [
        Shown(
            image_CHW=image_CHW,
            true=card.classes[labels_N[position]],
            predicted=card.classes[predicted_N[position]],
            probability=float(probs_NK[position].max()),
        )
        for position, image_CHW in zip(picked_B, images_BCHW, strict=True)
    ]
    return [test.keys[position] for position in pool_N[picked_B]], shown


def _probabilities(
    model: nn.Module, images: SplitImages, positions_B: NDArray[np.intp]
) -> NDArray[np.float64]:
    with torch.inference_mode():
        logits_BK = model(torch.from_numpy(to_input(images.take(positions_B))))
    return softmax(logits_BK.numpy())


def _draw(
    folder: Path, card: ModelCard, keys: list[str], chosen: list[Shown], saliency: Saliency
) -> Explanation:
    draw_heats(folder / GRADCAM, chosen, saliency.heats)
    draw_filters(folder / FILTERS, saliency.filters_MCHW)
    pictures = [
        Picture(file=GRADCAM, caption=f"Evidence for the predicted class in {saliency.heat_layer}"),
        Picture(file=FILTERS, caption=f"Filters of {saliency.map_layer}"),
    ]
    images = []
    for number, (key, shown) in enumerate(zip(keys, chosen, strict=True), 1):
        file = f"features-{number:02d}.png"
        draw_maps(folder / file, shown, saliency.maps_BMHW[number - 1])
        pictures.append(Picture(file=file, caption=f"{key}: maps of {saliency.map_layer}"))
        images.append(
            ExplainedImage(
                key=key,
                true=shown.true,
                predicted=shown.predicted,
                probability=shown.probability,
                features=file,
            )
        )
    return Explanation(
        variant=card.variant,
        sha256=card.sha256,
        gradcam_layer=saliency.heat_layer,
        features_layer=saliency.map_layer,
        pictures=pictures,
        images=images,
    )
