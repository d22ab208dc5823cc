"""Residual nets in their form for 32x32 images."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.models.contract import Arguments, Shape
from imagemill.models.layers import BranchNorm, Head, linear_rule
from imagemill.models.seed import scaled
from imagemill.models.shortcut import PaddedShortcut


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, skipped: float) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(
            channels_in, channels_out, 3, stride=stride, padding=1, bias=False
        )
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.convolution2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = BranchNorm(channels_out, skipped)
        self.shortcut = PaddedShortcut(channels_in, channels_out, stride)

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.convolution1(features)), inplace=True)
        branch: Tensor = self.norm2(self.convolution2(inner))
        return F.relu(branch.add_(self.shortcut(features)), inplace=True)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, global average, one linear layer.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
    """

    MINIMUM_SIZE = 4  # 4 -> 4 -> 2 -> 1

    def __init__(self, shape: Shape, arguments: Arguments, *, blocks_per_stage: int) -> None:
        super().__init__()
        widths = [scaled(channels, arguments.width) for channels in (16, 32, 64)]
        self.convolution = nn.Conv2d(shape.channels, widths[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        channels_in, num_blocks = widths[0], 3 * blocks_per_stage
        for stage, channels_out in enumerate(widths):
            for block in range(blocks_per_stage):
                stride = 2 if stage and not block else 1
                skipped = linear_rule(arguments.stochastic_depth, len(blocks) + 1, num_blocks)
                blocks.append(_Residual(channels_in, channels_out, stride, skipped))
                channels_in = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = Head(channels_in, shape.num_classes, arguments.dropout)

    @classmethod
    def with_layers(cls, number: int) -> Callable[[Shape, Arguments], "CifarResNet"]:
        """The builder of the net with so many layers: 6 n + 2, n blocks in each stage."""
        blocks_per_stage, rest = divmod(number - 2, 6)
        assert rest == 0, number

        def build(shape: Shape, arguments: Arguments) -> "CifarResNet":
            return cls(shape, arguments, blocks_per_stage=blocks_per_stage)

        return build

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.relu(self.norm(self.convolution(images_BCHW)), inplace=True)
        logits: Tensor = self.head(self.blocks(features).mean((2, 3)))
        return logits
