"""Weights that are zero and stay zero while a net is trained on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Masks = dict[str, Any]  # name of a layer -> a module with the buffer `mask`


def weighted_layers(model: "nn.Module") -> "dict[str, nn.Conv2d | nn.Linear]":
    """Name -> convolutions and linear layers that learn."""
    from torch import nn

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.requires_grad
    }


def least_weights(model: "nn.Module", ratio: float) -> "dict[str, Tensor]":
    """Layer -> which of its weights stay (1) and which go (0): the smallest of all layers together.

    Args:
        model: Convolutions and linear layers are looked at.
        ratio: Share of all their weights that goes.

    Source:
        Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks"; ours
        ranks the weights of all layers together instead of each layer's own.
    """
    import torch

    sizes = {name: layer.weight.detach().abs() for name, layer in weighted_layers(model).items()}
    flat = torch.cat([size.flatten() for size in sizes.values()])
    kept = torch.ones_like(flat)
    kept[flat.argsort(stable=True)[: int(ratio * len(flat))]] = 0
    parts = torch.split(kept, [size.numel() for size in sizes.values()])
    return {
        name: part.view_as(size) for (name, size), part in zip(sizes.items(), parts, strict=True)
    }


def zeros_of(model: "nn.Module") -> "dict[str, Tensor]":
    """Layer -> mask of those of its weights that are not exactly zero; layers without a zero left
    out."""
    masks = {
        name: (layer.weight.detach() != 0).float() for name, layer in weighted_layers(model).items()
    }
    return {name: mask for name, mask in masks.items() if not bool(mask.all())}


@contextmanager
def masked(model: "nn.Module", masks: "Mapping[str, Tensor]") -> Iterator[Masks]:
    """Multiply weights with masks, whatever the optimiser makes of them; afterwards the products
    are the weights.

    Args:
        model: Changed in place.
        masks: Layer -> 0 and 1 in the shape of its weight.

    Yields:
        Layer -> module whose buffer `mask` may be replaced meanwhile.
    """
    import torch
    from torch import Tensor, nn
    from torch.nn.utils import parametrize

    class Mask(nn.Module):
        mask: Tensor

        def __init__(self, mask: Tensor) -> None:
            super().__init__()
            self.register_buffer("mask", mask)

        def forward(self, weight: Tensor) -> Tensor:
            return weight * self.mask

    made: Masks = {}
    for name, mask in masks.items():
        made[name] = Mask(mask)
        parametrize.register_parametrization(model.get_submodule(name), "weight", made[name])
    try:
        yield made
    finally:
        with torch.no_grad():
            for name in masks:
                layer = model.get_submodule(name)
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
