"""Gradients of depthwise convolutions in bfloat16 on the CPU, out of kernels that are fast.

oneDNN (3.12, in PyTorch 2.14) has no bfloat16 kernel for the gradient by the input of a strided
depthwise convolution, nor for that by a filter wider than three: its reference code takes up to a
hundred times as long as the forward pass, and most of a step of EfficientNet. Both are other
depthwise convolutions that do have one. What it saves is in docs/training.md.

Shapes: N samples, C channels, H W pixels in, P Q pixels out, K the side of a filter.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.train.machine import Machine

_TILE = 3  # the widest filter whose gradient has a kernel


@contextmanager
def quick_depthwise(model: nn.Module, machine: Machine) -> Iterator[None]:
    """Within it the model's depthwise convolutions have quick gradients where they need them.

    Layers get another `_conv_forward` of their own, and lose it again afterwards.
    """
    found: list[nn.Conv2d] = []
    if machine.device.type == "cpu" and machine.precision == torch.bfloat16:
        found = [module for module in model.modules() if _gains(module)]
    for layer in found:
        convolve = partial(_convolve, stride=layer.stride[0], padding=int(layer.padding[0]))
        layer._conv_forward = convolve  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in found:
            del layer._conv_forward


def _gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if not isinstance(module, nn.Conv2d) or isinstance(module.padding, str):
        return False
    side, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
    return (
        module.groups == module.in_channels == module.out_channels > 1
        and module.kernel_size == (side, side)
        and module.stride == (stride, stride)
        and module.padding == (padding, padding)
        and padding < side
        and module.dilation == (1, 1)
        and module.padding_mode == "zeros"
        and (side > _TILE or (side == _TILE and stride > 1))
    )


def _convolve(
    images: Tensor, filters: Tensor, bias: Tensor | None, *, stride: int, padding: int
) -> Tensor:
    if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        return F.conv2d(images, filters, bias, stride, padding, 1, len(filters))
    dtype = torch.get_autocast_dtype("cpu")
    made = _Depthwise.apply(images.to(dtype), filters.to(dtype), stride, padding)
    out = cast(Tensor, made)
    return out if bias is None else out + bias.to(dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    """[N, C, H, W] by [C, 1, K, K] -> [N, C, P, Q]."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, filters)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(images, filters, None, stride, padding, 1, len(filters))

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = given
        images, filters = ctx.saved_tensors
        by_images = by_filters = None
        if ctx.needs_input_grad[0]:
            by_images = _by_images(grad, images, filters, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            by_filters = _by_filters(grad, images, filters, ctx.stride, ctx.padding)
        return by_images, by_filters, None, None


def _by_images(grad: Tensor, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
    """A convolution of the gradient, spread out to the stride, with the filters turned round."""
    side, channels = filters.shape[-1], len(filters)
    if stride > 1:
        height, width = (size - side + 1 + 2 * padding for size in images.shape[2:])
        spread = grad.new_zeros(len(grad), height, width, channels).permute(0, 3, 1, 2)
        spread[:, :, ::stride, ::stride] = grad
        grad = spread
    return F.conv2d(grad, filters.flip(2, 3), None, 1, side - 1 - padding, 1, channels)


def _by_filters(grad: Tensor, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
    """Three by three taps at a time: each tile is the gradient by a filter of that size."""
    channels, _, side, _ = filters.shape
    tiles = -(-side // _TILE)
    tile = filters[:, :, :_TILE, :_TILE].contiguous()
    seen = [(size - 1) * stride + _TILE for size in grad.shape[2:]]  # by a tap's tile: pixels
    tall, wide = (_TILE * (tiles - 1) + size for size in seen)
    height, width = images.shape[2:]
    padded = images
    if padding or (height, width) != (tall, wide):  # F.pad copies where there is nothing to add too
        padded = F.pad(images, (padding, wide - padding - width, padding, tall - padding - height))
    taps = filters.new_empty(channels, 1, _TILE * tiles, _TILE * tiles)
    for top in range(0, _TILE * tiles, _TILE):
        for left in range(0, _TILE * tiles, _TILE):
            window = padded[:, :, top : top + seen[0], left : left + seen[1]]
            taps[:, :, top : top + _TILE, left : left + _TILE] = _native(
                grad, window.contiguous(memory_format=torch.channels_last), tile, stride
            )
    return taps[:, :, :side, :side]


def _native(grad: Tensor, images: Tensor, filters: Tensor, stride: int) -> Tensor:
    """torch's own gradient by the filters of an unpadded depthwise convolution."""
    made = torch.ops.aten.convolution_backward(
        grad,
        images,
        filters,
        None,
        [stride, stride],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        len(filters),
        [False, True, False],
    )
    return cast(Tensor, made[1])
