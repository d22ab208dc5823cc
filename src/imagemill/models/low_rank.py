"""A layer of low rank: two thin ones in its place.

Shapes: O output channels, I inputs of a filter (channels times kernel), R rank.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class LowRank(nn.Sequential):
    """`reduce` to R channels with the layer's own kernel, then `expand` to all outputs.

    Source: Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank
    Expansions", their scheme for channels; ours takes the split from the singular vectors.
    """

    @classmethod
    def like(cls, layer: nn.Conv2d | nn.Linear, rank: int) -> "LowRank":
        """Two layers without values, for one."""
        made = cls()
        has_bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            made.add_module("reduce", nn.Linear(layer.in_features, rank, bias=False))
            made.add_module("expand", nn.Linear(rank, layer.out_features, bias=has_bias))
            return made
        reduce = nn.Conv2d(
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            stride=layer.stride,  # type: ignore[arg-type]
            padding=layer.padding,  # type: ignore[arg-type]
            dilation=layer.dilation,  # type: ignore[arg-type]
            bias=False,
        )
        made.add_module("reduce", reduce)
        made.add_module("expand", nn.Conv2d(rank, layer.out_channels, 1, bias=has_bias))
        return made

    @classmethod
    @torch.no_grad()
    def nearest(cls, layer: nn.Conv2d | nn.Linear, rank: int) -> "LowRank":
        """The two whose product is nearest to the layer's filters (in the sum of squares)."""
        made = cls.like(layer, rank)
        u_OR, s_R, v_RI = torch.linalg.svd(layer.weight.flatten(1).double(), full_matrices=False)
        root_R = s_R[:rank].sqrt()
        reduce, expand = made.get_submodule("reduce"), made.get_submodule("expand")
        _fill(reduce, root_R[:, None] * v_RI[:rank])
        _fill(expand, u_OR[:, :rank] * root_R)
        if layer.bias is not None:
            assert isinstance(expand.bias, Tensor)
            expand.bias.copy_(layer.bias)
        return made


def _fill(layer: nn.Module, values: Tensor) -> None:
    assert isinstance(layer.weight, Tensor)
    layer.weight.copy_(values.view_as(layer.weight))


def fit_to_ranks(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Put `LowRank` in place of the layers whose stored tensors say so.

    Args:
        model: A freshly built net.
        shapes: State-dict name -> shape.
    """
    for name, layer in list(model.named_modules()):
        shape = shapes.get(f"{name}.reduce.weight")
        if shape is not None and isinstance(layer, nn.Conv2d | nn.Linear):
            replace(model, name, LowRank.like(layer, shape[0]))


def replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer in another's place."""
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, layer)
