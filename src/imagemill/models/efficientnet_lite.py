"""EfficientNet-Lite: inverted residuals for processors without a fast sigmoid."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.models.contract import Arguments, Shape
from imagemill.models.layers import BranchNorm, Head, linear_rule

_DIVISOR = 8


class _Stage(NamedTuple):
    """Blocks of one kind; the first of them has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# EfficientNet-B0's table, which Lite0 shares; the larger ones are scaled from it.
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM, _TOP = 32, 1280
_EPS, _MOMENTUM = 1e-3, 0.01  # TensorFlow's constants for the norms of these nets


class _SameConv2d(nn.Conv2d):
    """A convolution whose output is ceil(side / stride) wide, with zeros added as TensorFlow does.

    With a stride of 2 and an even side the zeros left and right differ: the odd one is behind.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            channels_in,
            channels_out,
            kernel,
            stride,
            padding=kernel // 2 if stride == 1 else 0,
            bias=False,
        )

    def forward(self, features: Tensor) -> Tensor:
        if self.stride[0] > 1:
            top, bottom = self._zeros(features.shape[2])
            left, right = self._zeros(features.shape[3])
            features = F.pad(features, (left, right, top, bottom))
        return super().forward(features)

    def _zeros(self, side: int) -> tuple[int, int]:
        kernel, stride = self.kernel_size[0], self.stride[0]
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        return missing // 2, missing - missing // 2


class _Depthwise(_SameConv2d):
    """A filter of its own for each channel."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride)
        self.groups = channels
        self.weight = nn.Parameter(self.weight.detach()[:, :1].contiguous())
        self.reset_parameters()


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=_MOMENTUM)


class _InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow without an activation; added to its input if that fits."""

    def __init__(
        self, channels_in: int, channels: int, stage: _Stage, stride: int, skipped: float
    ) -> None:
        super().__init__()
        wide = channels_in * stage.expansion
        self.is_added = stride == 1 and channels_in == channels
        self.widens = stage.expansion > 1
        if self.widens:
            self.widening = _SameConv2d(channels_in, wide, 1)
            self.norm1 = _norm(wide)
        self.depthwise = _Depthwise(wide, stage.kernel, stride)
        self.norm2 = _norm(wide)
        self.narrowing = _SameConv2d(wide, channels, 1)
        self.norm3 = BranchNorm(channels, skipped, eps=_EPS, momentum=_MOMENTUM)

    def forward(self, features: Tensor) -> Tensor:
        inner = features
        if self.widens:
            inner = F.relu6(self.norm1(self.widening(inner)))
        inner = F.relu6(self.norm2(self.depthwise(inner)))
        inner = self.norm3(self.narrowing(inner))
        added: Tensor = inner + features if self.is_added else inner
        return added


class EfficientNetLite(nn.Module):
    """Stem of 32 channels, inverted residuals, 1280 features, global average, one linear layer.

    No squeeze-and-excitation, ReLU6 instead of Swish; the stem and the top keep their channels at
    any width, the first and the last stage their single block at any depth. Lite0 (width 1, depth
    1) has 16 residuals and 4,652,008 parameters at 1000 classes and is made for 224 pixels.

    Source: Tan and Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks", and the README of tensorflow/tpu's models/official/efficientnet/lite.

    Args:
        width: Channels, relative to Lite0's.
        depth: Blocks of a stage, relative to Lite0's, rounded up.
    """

    MINIMUM_SIZE = 32  # 32 -> 16 -> 16 -> 8 -> 4 -> 2 -> 2 -> 1

    def __init__(
        self, shape: Shape, arguments: Arguments, *, width: float = 1.0, depth: float = 1.0
    ) -> None:
        super().__init__()
        width *= arguments.width
        stages = [_deeper(stage, depth) for stage in _STAGES]
        self.stem = _SameConv2d(shape.channels, _STEM, 3, stride=2)
        self.norm = _norm(_STEM)
        blocks: list[nn.Module] = []
        # The first block of a stage changes the channels: there is no shortcut to skip to.
        channels_in, can_skip = _STEM, sum(stage.repeats - 1 for stage in stages)
        num_skipped = 0
        for stage in stages:
            for number in range(stage.repeats):
                channels_out = _rounded(stage.channels * width)
                stride = 1 if number else stage.stride
                num_skipped += number > 0
                share = linear_rule(arguments.stochastic_depth, num_skipped, can_skip)
                skipped = share if number else 0.0
                blocks.append(_InvertedResidual(channels_in, channels_out, stage, stride, skipped))
                channels_in = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.top = _SameConv2d(channels_in, _TOP, 1)
        self.top_norm = _norm(_TOP)
        self.head = Head(_TOP, shape.num_classes, arguments.dropout)

    @classmethod
    def scaled(cls, width: float, depth: float) -> Callable[[Shape, Arguments], nn.Module]:
        """What builds one of the larger ones: arguments as of the class."""
        return partial(cls, width=width, depth=depth)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.relu6(self.norm(self.stem(images_BCHW)))
        features = F.relu6(self.top_norm(self.top(self.blocks(features))))
        logits: Tensor = self.head(features.mean((2, 3)))
        return logits


def _deeper(stage: _Stage, depth: float) -> _Stage:
    if stage.repeats == 1:
        return stage
    return stage._replace(repeats=math.ceil(stage.repeats * depth))


def _rounded(channels: float) -> int:
    """To a multiple of 8, never by more than a tenth downwards."""
    rounded = max(_DIVISOR, int(channels + _DIVISOR / 2) // _DIVISOR * _DIVISOR)
    return rounded + _DIVISOR if rounded < 0.9 * channels else rounded
