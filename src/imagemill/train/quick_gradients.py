"""Gradients of convolutions in bfloat16 on the CPU, out of kernels that are fast.

oneDNN (3.12, in PyTorch 2.14) leaves the gradient by the input of a strided depthwise convolution,
and that by a filter wider than three or than the map it is laid on, to code that takes up to a
hundred times as long as the forward pass. Both are other depthwise convolutions that do have a fast
kernel. The gradients of a convolution of one by one are products of matrices, and faster as such.
What it saves is in docs/training.md.

Shapes: N samples, C channels in, D out, H W pixels in, P Q pixels out, K the side of a filter.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.train.machine import Machine

_TILE = 3  # the widest filter whose gradient has a kernel

_Convolution = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@contextmanager
def quick_gradients(model: nn.Module, machine: Machine) -> Iterator[None]:
    """Within it the model's convolutions have quick gradients where that needs help.

    Layers get another `_conv_forward` of their own, and lose it again afterwards.
    """
    found: dict[nn.Conv2d, _Convolution] = {}
    if machine.device.type == "cpu" and machine.precision == torch.bfloat16:
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and (quick := _quick(module)) is not None:
                found[module] = quick
    for layer, quick in found.items():
        layer._conv_forward = quick  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        for layer in found:
            del layer._conv_forward


def _quick(layer: nn.Conv2d) -> _Convolution | None:
    """What the layer computes, with other gradients; None: it does not gain."""
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        return None
    side, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    is_square = (layer.kernel_size, layer.stride, layer.padding, layer.dilation) == (
        (side, side),
        (stride, stride),
        (padding, padding),
        (1, 1),
    )
    if not is_square:
        return None
    if (side, stride, padding, layer.groups) == (1, 1, 0, 1):
        return partial(_convolve, _Pointwise, stride=1, padding=0)
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    if is_depthwise and side >= _TILE and padding < side:
        return partial(_convolve, _Depthwise, stride=stride, padding=padding)
    return None


def _convolve(
    function: type[torch.autograd.Function],
    images: Tensor,
    filters: Tensor,
    bias: Tensor | None,
    *,
    stride: int,
    padding: int,
) -> Tensor:
    if not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        groups = images.shape[1] // filters.shape[1]
        return F.conv2d(images, filters, bias, stride, padding, 1, groups)
    dtype = torch.get_autocast_dtype("cpu")
    made = function.apply(images.to(dtype), filters.to(dtype), stride, padding)
    out = cast(Tensor, made)
    return out if bias is None else out + bias.to(dtype)[:, None, None]


class _Pointwise(torch.autograd.Function):
    """[N, C, H, W] by [D, C, 1, 1] -> [N, D, H, W]."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(images, filters)
        return F.conv2d(images, filters, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        images, filters = ctx.saved_tensors
        grad = _pixels(given[0])
        by_images = by_filters = None
        if ctx.needs_input_grad[0]:
            count, _, height, width = images.shape
            product = grad @ filters.flatten(1)
            by_images = product.view(count, height, width, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            by_filters = (grad.t() @ _pixels(images)).view_as(filters)
        return by_images, by_filters, None, None


def _pixels(images: Tensor) -> Tensor:
    """[N, C, H, W] -> [N * H * W, C], a view where channels are last."""
    return images.permute(0, 2, 3, 1).flatten(0, 2)


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
    """Taps that lie on the zeros around a small map for every pixel out have a gradient of 0."""
    side = filters.shape[-1]
    first = max(0, padding - (max(grad.shape[2:]) - 1) * stride)
    last = min(side, padding + max(images.shape[2:]))
    seen = slice(first, last)
    taps = _by_taps(grad, images, filters[:, :, seen, seen], stride, padding - first)
    return F.pad(taps, (first, side - last) * 2) if last - first < side else taps


def _by_taps(grad: Tensor, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
    """Three by three taps at a time: each tile is the gradient by a filter of that size."""
    channels, _, side, _ = filters.shape
    if side == _TILE and min(images.shape[2:]) >= _TILE:
        return _native(grad, images, filters, stride, padding)
    tiles = -(-side // _TILE)
    tile = filters.new_empty(channels, 1, _TILE, _TILE)
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
                grad, window.contiguous(memory_format=torch.channels_last), tile, stride, 0
            )
    return taps[:, :, :side, :side]


def _native(grad: Tensor, images: Tensor, filters: Tensor, stride: int, padding: int) -> Tensor:
    """torch's own gradient by the filters of a depthwise convolution."""
    made = torch.ops.aten.convolution_backward(
        grad,
        images,
        filters,
        None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        len(filters),
        [False, True, False],
    )
    return cast(Tensor, made[1])
