"""All saliency methods a variant allows, and what each is worth.

Shapes: B images, H height, W width.
"""

from typing import NamedTuple

from imagemill.explain.faithfulness import (
    OCCLUSION,
    RANDOM,
    Curves,
    Images,
    follow,
    judged,
    random_curves,
)
from imagemill.explain.occlusion import Occlusion, occlude
from imagemill.explain.saliency import Evidence, camera, integrate
from imagemill.explain.subject import Subject
from imagemill.params import ExplainParams
from imagemill.records import Faithfulness

INTEGRATED = "Integrated gradients"


class Seen(NamedTuple):
    """Where the model looks, by each method.

    evidence: Method -> evidence for the predicted class [B, H, W].
    occlusion: What patches are worth.
    layers: That Grad-CAM looked into; none: it could not.
    gap: Of integrated gradients; None: there are none.
    """

    evidence: dict[str, Evidence]
    occlusion: Occlusion
    layers: tuple[str, ...]
    gap: float | None


def look(subject: Subject, images: Images, params: ExplainParams) -> Seen:
    """Ask by covering, and where there is a net by its gradients.

    Args:
        subject: What is explained.
        images: On which.
        params: Patches and steps.
    """
    occlusion = occlude(
        subject.predict,
        images.images_BCHW,
        images.predicted_B,
        blank_C=images.blank_C,
        window=params.occlusion_window,
        stride=params.occlusion_stride,
    )
    covered = {OCCLUSION: occlusion.evidence_BHW}
    if subject.model is None:
        return Seen(covered, occlusion, layers=(), gap=None)
    asked = (subject.model, images.images_BCHW, images.predicted_B)
    integrated = integrate(*asked, blank_C=images.blank_C, steps=params.integration_steps)
    evidence = {
        **camera(*asked, subject.layers),
        INTEGRATED: integrated.evidence_BHW,
        **covered,
    }
    return Seen(evidence, occlusion, layers=subject.layers, gap=integrated.gap)


def judge(
    subject: Subject, images: Images, seen: Seen, params: ExplainParams
) -> tuple[dict[str, Curves], list[Faithfulness]]:
    """Deletion and insertion by each method and at random: curves, and scores."""
    predict, steps, blur = subject.predict, params.deletion_steps, params.blur
    curves = {
        method: follow(predict, images, evidence, steps=steps, blur=blur)
        for method, evidence in seen.evidence.items()
    }
    curves[RANDOM] = random_curves(
        predict, images, maps=params.random_maps, seed=params.seed, steps=steps, blur=blur
    )
    return curves, judged(curves, seen.evidence, seen.occlusion)
