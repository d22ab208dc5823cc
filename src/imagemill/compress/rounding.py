"""Quantization-aware training: the net feels INT8 rounding while it goes on training.

Weights and inputs of convolutions and linear layers are rounded as `quantize` will round them, and
gradients pass as if they were not. What comes out is a float net whose weights bear it; it is
quantized as any other then. Weights have a scale for each output channel, so that folding the norm
behind a convolution into it, which scales whole channels, changes nothing of the rounding.

Shapes: B batch, O output channels.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from imagemill.compress.masks import weighted_layers

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

_OLD = 0.99  # of a range, at each step; ranges settle in some hundred steps


class RoundedWeight(nn.Module):
    """Signed bytes, symmetric, a scale for each output channel."""

    def forward(self, weight: Tensor) -> Tensor:
        largest_O = weight.detach().abs().flatten(1).amax(1).clamp_min(1e-12)
        zeros_O = torch.zeros(len(largest_O), dtype=torch.int32, device=weight.device)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(
            weight, largest_O / 127, zeros_O, 0, -127, 127
        )
        return rounded


class InputRounding:
    """Unsigned bytes over the range of values seen, zero among them; for a forward pre-hook."""

    def __init__(self) -> None:
        self.low: Tensor | None = None
        self.high: Tensor | None = None

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        values = inputs[0].float()
        if layer.training or self.low is None:
            self._see(values.detach())
        assert self.low is not None and self.high is not None
        scale = ((self.high - self.low) / 255).clamp_min(1e-12)
        zero_point = (-self.low / scale).round().clamp(0, 255).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(values, scale, zero_point, 0, 255)
        return (rounded.to(inputs[0].dtype), *inputs[1:])

    def _see(self, values: Tensor) -> None:
        low, high = values.min().clamp_max(0), values.max().clamp_min(0)
        if self.low is None or self.high is None:
            self.low, self.high = low, high
        else:
            self.low = self.low.lerp(low, 1 - _OLD)
            self.high = self.high.lerp(high, 1 - _OLD)


@contextmanager
def rounded(model: nn.Module) -> Iterator[None]:
    """Round weights and inputs of all convolutions and linear layers while inside.

    Args:
        model: Changed in place; afterwards its weights are the trained ones, not rounded.

    Source:
        Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference"; ours leaves the folding of norms to the exporter.
    """
    layers = list(weighted_layers(model).values())
    handles: list[RemovableHandle] = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", RoundedWeight())
        handles.append(layer.register_forward_pre_hook(InputRounding()))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
