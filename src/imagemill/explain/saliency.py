"""What a net looks at, and what its first layer makes of an image.

Shapes: B images, C channels, H height, W width, K classes, M maps of the first layer, T tokens.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from captum.attr import LayerActivation, LayerAttribution, LayerGradientXActivation
from numpy.typing import NDArray
from torch import Tensor, nn


class Saliency(NamedTuple):
    """Explanations of a few images.

    heats: Method -> float32 [B, H, W], evidence for the predicted class; each image's largest value
        is 1 (0: nothing spoke for it).
    maps_BMHW: What the first convolution gives.
    filters_MCHW: Its weights.
    heat_layer, map_layer: Names of the layers.
    """

    heats: dict[str, NDArray[np.float32]]
    maps_BMHW: NDArray[np.float32]
    filters_MCHW: NDArray[np.float32]
    heat_layer: str
    map_layer: str


def look_into(
    model: nn.Module,
    images_BCHW: NDArray[np.float32],
    predicted_B: NDArray[np.int64],
    *,
    evidence: str | None = None,
) -> Saliency:
    """Explain the model's own predictions.

    Args:
        model: In evaluation mode, on the CPU; its first layer is a convolution.
        images_BCHW: float32 in 0..1.
        predicted_B: The classes to explain.
        evidence: Layer to explain by: its outputs are maps [B, C, H, W], or [B, H, W, C] or tokens
            [B, 1 + H W, C] if it is a LayerNorm. None: the last convolution with its norm.

    Source:
        Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
        Localization", and Draelos and Carin 2020, "Use HiResCAM instead of Grad-CAM for faithful
        explanations of convolutional neural networks", from captum's gradients and activations; the
        tokens of a transformer are laid out as the maps they stand for, the class token left out.
        The first averages gradients over places, which misleads where a
        linear layer weighs each place by itself; the second does not.
    """
    convolutions = [name for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
    first, last = convolutions[0], evidence or _normed(model, convolutions[-1])
    images = torch.from_numpy(images_BCHW)
    kept: list[Tensor] = []
    layer = model.get_submodule(first)
    assert isinstance(layer, nn.Conv2d)
    hook = layer.register_forward_hook(lambda *call: kept.append(call[2].detach().clone()))
    with torch.inference_mode():
        model(images)
    hook.remove()
    return Saliency(
        heats=_heats(model, model.get_submodule(last), images, torch.from_numpy(predicted_B)),
        maps_BMHW=kept[0].numpy(),
        filters_MCHW=layer.weight.detach().numpy(),
        heat_layer=last,
        map_layer=first,
    )


def _heats(
    model: nn.Module, layer: nn.Module, images_BCHW: Tensor, targets_B: Tensor
) -> dict[str, NDArray[np.float32]]:
    slopes = LayerGradientXActivation(model, layer, multiply_by_inputs=False)
    slopes_BCHW = _as_maps(layer, slopes.attribute(images_BCHW, targets_B))
    maps_BCHW = _as_maps(layer, LayerActivation(model, layer).attribute(images_BCHW))
    averaged_BC11 = slopes_BCHW.mean((2, 3), keepdim=True)
    return {
        "Grad-CAM": _scaled((averaged_BC11 * maps_BCHW).sum(1, keepdim=True), images_BCHW),
        "HiResCAM": _scaled((slopes_BCHW * maps_BCHW).sum(1, keepdim=True), images_BCHW),
    }


def _as_maps(layer: nn.Module, values: Tensor) -> Tensor:
    """Values of a layer as [B, C, H, W]."""
    if not isinstance(layer, nn.LayerNorm):
        return values
    if values.ndim == 4:
        return values.movedim(3, 1)
    tokens_BTC = values[:, 1:]  # the first one stands for the class
    side = math.isqrt(tokens_BTC.shape[1])
    batch, _, channels = tokens_BTC.shape
    return tokens_BTC.reshape(batch, side, side, channels).movedim(3, 1)


def _scaled(evidence_B1HW: Tensor, images_BCHW: Tensor) -> NDArray[np.float32]:
    """Evidence for the class, at the size of the images, in 0..1."""
    coarse_B1HW = evidence_B1HW.detach().relu()
    size = tuple(images_BCHW.shape[2:])
    heat_BHW = LayerAttribution.interpolate(coarse_B1HW, size, "bilinear")[:, 0]
    largest_B11 = heat_BHW.amax((1, 2), keepdim=True)
    heat: NDArray[np.float32] = (heat_BHW / largest_B11.clamp_min(1e-12)).numpy()
    return heat


def _normed(model: nn.Module, convolution: str) -> str:
    """The norm right behind a convolution, which decides how its channels count; else itself."""
    parts = [(name, part) for name, part in model.named_modules() if not list(part.children())]
    behind = [name for name, _ in parts].index(convolution) + 1
    is_norm = behind < len(parts) and isinstance(parts[behind][1], nn.BatchNorm2d)
    return parts[behind][0] if is_norm else convolution
