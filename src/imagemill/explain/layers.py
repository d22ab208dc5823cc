"""What layers of a net make of images, and the filters of the first one.

Shapes: B images, C channels, H height, W width, M maps.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from imagemill.errors import ParamsError
from imagemill.explain.saliency import as_maps

_NEAREST = 5


class Filters(NamedTuple):
    """The weights of the first convolution, and its name."""

    layer: str
    weights_MCHW: NDArray[np.float32]


def first_filters(model: nn.Module) -> Filters:
    """What the first convolution looks for."""
    layers = ((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))
    name, layer = next(layers)
    return Filters(name, layer.weight.detach().numpy())


def chosen_layers(
    model: nn.Module, image_1CHW: NDArray[np.float32], wanted: Sequence[str] | None
) -> list[str]:
    """Names in the model of the layers whose maps are to be drawn.

    Args:
        model: In evaluation mode, on the CPU.
        image_1CHW: An image, to see which layers give maps.
        wanted: As `named_modules` names them, the "1." of the net behind its normalisation may be
            left out; None: the first convolution.

    Raises:
        ParamsError: there is no such layer, or it gives no maps; names the nearest that do.
    """
    if wanted is None:
        return [first_filters(model).layer]
    known = list(_maps(model, image_1CHW, None))
    return [_known(name, known) for name in wanted]


def feature_maps(
    model: nn.Module, images_BCHW: NDArray[np.float32], names: Sequence[str]
) -> dict[str, NDArray[np.float32]]:
    """What layers give: name -> maps [B, M, H, W].

    Args:
        model: In evaluation mode, on the CPU.
        images_BCHW: float32 in 0..1.
        names: From `chosen_layers`.
    """
    found = _maps(model, images_BCHW, names)
    return {name: found[name] for name in names}


def _known(name: str, known: Sequence[str]) -> str:
    for full in (name, f"1.{name}"):
        if full in known:
            return full
    nearest = get_close_matches(name, known, n=_NEAREST, cutoff=0.0)
    raise ParamsError(
        f"explain.layers: no layer that gives maps is called {name!r}; nearest: "
        f"{', '.join(nearest)}"
    )


def _maps(
    model: nn.Module, images_BCHW: NDArray[np.float32], names: Sequence[str] | None
) -> dict[str, NDArray[np.float32]]:
    """Outputs of the layers that are maps, in the order they are computed."""
    kept: dict[str, NDArray[np.float32]] = {}

    def keep(name: str, layer: nn.Module, values: Any) -> None:
        if isinstance(values, Tensor) and _holds_maps(layer, values):
            kept[name] = as_maps(layer, values).detach().clone().numpy()

    hooks = [
        part.register_forward_hook(lambda layer, _, values, name=name: keep(name, layer, values))
        for name, part in model.named_modules()
        if name and (names is None or name in names)
    ]
    try:
        with torch.inference_mode():
            model(torch.from_numpy(images_BCHW))
    finally:
        for hook in hooks:
            hook.remove()
    return kept


def _holds_maps(layer: nn.Module, values: Tensor) -> bool:
    if isinstance(layer, nn.LayerNorm):
        return values.ndim == 4 or (values.ndim == 3 and _is_square(values.shape[1] - 1))
    return values.ndim == 4


def _is_square(count: int) -> bool:
    return count > 0 and int(count**0.5 + 0.5) ** 2 == count
