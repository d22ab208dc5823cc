"""Where in an image the evidence for a class lies, by the gradients of the net.

Shapes: B images, C channels, H height, W width, K classes, T tokens.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import (
    IntegratedGradients,
    LayerActivation,
    LayerAttribution,
    LayerGradientXActivation,
)
from numpy.typing import NDArray
from torch import Tensor, nn

# Images whose activations are held at a time, and points of their paths.
_BATCH = 16

Evidence = NDArray[np.float32]  # [B, H, W], negative where something speaks against the class


class Integrated(NamedTuple):
    """Integrated gradients.

    evidence_BHW: Summed over channels.
    gap: |sum of the evidence - difference of the logits|, as a share of that difference; the mean.
    """

    evidence_BHW: Evidence
    gap: float


def heats(evidence_BHW: Evidence) -> Evidence:
    """Evidence as it is shown: what speaks for the class, the largest of each image 1 (or 0)."""
    positive_BHW = evidence_BHW.clip(0)
    shown: Evidence = positive_BHW / positive_BHW.max((1, 2), keepdims=True).clip(1e-12)
    return shown


def camera(
    model: nn.Module,
    images_BCHW: NDArray[np.float32],
    predicted_B: NDArray[np.int64],
    layers: Sequence[str],
) -> dict[str, Evidence]:
    """Evidence for the model's own predictions in a late layer, or in one of each member.

    Args:
        model: In evaluation mode, on the CPU.
        images_BCHW: float32 in 0..1.
        predicted_B: The classes to explain.
        layers: Their outputs are maps [B, C, H, W], or [B, H, W, C] or tokens [B, 1 + H W, C] of a
            LayerNorm. The evidence in several is added up.

    Returns:
        Method -> evidence, brought to the size of the images.

    Source:
        Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization", and Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful
        explanations of convolutional neural networks", from captum's gradients and activations; the
        tokens of a transformer are laid out as the maps they stand for, the class token left out.
        The first averages gradients over places, which misleads where a linear layer weighs each
        place by itself; the second does not. Ours keep what speaks against the class.
    """
    found = []
    for layer in map(model.get_submodule, layers):
        batches = _batches(images_BCHW, predicted_B)
        found.append(_joined([_seen(model, layer, *batch) for batch in batches]))
    return {name: np.sum([one[name] for one in found], axis=0) for name in found[0]}


def integrate(
    model: nn.Module,
    images_BCHW: NDArray[np.float32],
    predicted_B: NDArray[np.int64],
    *,
    blank_C: NDArray[np.float32],
    steps: int,
) -> Integrated:
    """Gradients of the predicted logit, summed on the way from a blank image to the real one.

    Args:
        model: In evaluation mode, on the CPU.
        images_BCHW: float32 in 0..1.
        predicted_B: The classes to explain.
        blank_C: The image that says nothing, one value a channel.
        steps: Points on the way.

    Source:
        Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", by captum.
    """
    blank_1CHW = torch.from_numpy(blank_C)[None, :, None, None].expand(1, *images_BCHW.shape[1:])
    method, evidence, gaps = IntegratedGradients(model), [], []
    for images, targets in _batches(images_BCHW, predicted_B):
        found, missed_B = method.attribute(
            images,
            blank_1CHW,
            targets,
            n_steps=steps,
            internal_batch_size=max(_BATCH, len(images)),
            return_convergence_delta=True,
        )
        total_B = (found.sum((1, 2, 3)) - missed_B).abs()
        evidence.append(found.sum(1).float().numpy())
        gaps.append((missed_B.abs() / total_B.clamp_min(1e-6)).numpy())
    return Integrated(np.concatenate(evidence), float(np.concatenate(gaps).mean()))


def last_maps(model: nn.Module) -> str:
    """The last convolution; where a norm follows, which decides how channels count, that."""
    parts = [(name, part) for name, part in model.named_modules() if not list(part.children())]
    last = max(number for number, (_, part) in enumerate(parts) if isinstance(part, nn.Conv2d))
    if last + 1 < len(parts) and isinstance(parts[last + 1][1], nn.BatchNorm2d):
        last += 1
    return str(parts[last][0])


def as_maps(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of a layer as [B, C, H, W]; what are no maps is returned as it is."""
    if not isinstance(layer, nn.LayerNorm):
        return values
    if values.ndim == 4:
        return values.movedim(3, 1)
    tokens_BTC = values[:, 1:]  # the first one stands for the class
    batch, tokens, channels = tokens_BTC.shape
    side = math.isqrt(tokens)
    return tokens_BTC.reshape(batch, side, side, channels).movedim(3, 1)


def _batches(
    images_BCHW: NDArray[np.float32], predicted_B: NDArray[np.int64]
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(images_BCHW), _BATCH):
        chosen = slice(start, start + _BATCH)
        yield torch.from_numpy(images_BCHW[chosen]), torch.from_numpy(predicted_B[chosen])


def _joined(parts: Sequence[dict[str, Evidence]]) -> dict[str, Evidence]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _seen(
    model: nn.Module, layer: nn.Module, images_BCHW: Tensor, targets_B: Tensor
) -> dict[str, Evidence]:
    slopes = LayerGradientXActivation(model, layer, multiply_by_inputs=False)
    slopes_BCHW = as_maps(layer, slopes.attribute(images_BCHW, targets_B))
    maps_BCHW = as_maps(layer, LayerActivation(model, layer).attribute(images_BCHW))
    averaged_BC11 = slopes_BCHW.mean((2, 3), keepdim=True)
    size = tuple(images_BCHW.shape[2:])
    return {
        "Grad-CAM": _sized((averaged_BC11 * maps_BCHW).sum(1, keepdim=True), size),
        "HiResCAM": _sized((slopes_BCHW * maps_BCHW).sum(1, keepdim=True), size),
    }


def _sized(coarse_B1HW: Tensor, size: tuple[int, ...]) -> Evidence:
    fine_B1HW = LayerAttribution.interpolate(coarse_B1HW.detach(), size, "bilinear")
    evidence: Evidence = fine_B1HW[:, 0].numpy()
    return evidence
