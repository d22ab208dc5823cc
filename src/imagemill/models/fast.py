"""Nets of our own for small images: the most accuracy for the least computation on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.models.contract import Arguments, Shape
from imagemill.models.layers import Head
from imagemill.models.seed import scaled


class FastMnist(nn.Module):
    """Strides instead of pooling: three convolutions that end at a quarter of the side.

    62,186 parameters at 28x28x1 and 10 classes.
    """

    MINIMUM_SIZE = 8  # 8 -> 4 -> 2 -> 1

    def __init__(self, shape: Shape, arguments: Arguments) -> None:
        super().__init__()
        few, many = scaled(32, arguments.width), scaled(64, arguments.width)
        self.side = side = (shape.input_size + 3) // 4 // 2
        self.convolution1 = nn.Conv2d(shape.channels, few, 5, stride=2, padding=2, bias=False)
        self.norm1 = nn.BatchNorm2d(few)
        self.convolution2 = nn.Conv2d(few, many, 3, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(many)
        self.convolution3 = nn.Conv2d(many, many, 3, padding=1, bias=False)
        self.norm3 = nn.BatchNorm2d(many)
        self.head = Head(many * side * side, shape.num_classes, arguments.dropout)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.relu(self.norm1(self.convolution1(images_BCHW)))
        features = F.relu(self.norm2(self.convolution2(features)))
        features = F.relu(self.norm3(self.convolution3(features)))
        pooled = F.max_pool2d(features, 2)
        if pooled.shape[-1] != self.side:  # images of another size than the head was made for
            pooled = F.adaptive_max_pool2d(features, self.side)
        logits: Tensor = self.head(pooled.flatten(1))
        return logits


# x sigmoid(1.702 x) is GELU to 0.02, at 0.4 of its time on a CPU. What stands before it multiplies
# by this, so that torch's own SiLU follows; what comes out is as many times too large, which the
# next norm takes back.
_STEEPNESS = 1.702


def _shifting_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm that learns a shift alone; Muon lets such shifts learn faster than all else."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, _STEEPNESS).requires_grad_(False)
    return norm


class _Block(nn.Module):
    """Conv, pool, norm, SiLU, conv, norm, SiLU: halves the side."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.convolution1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm1 = _shifting_norm(channels_out)
        self.convolution2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = _shifting_norm(channels_out)
        for convolution in (self.convolution1, self.convolution2):
            # The first filters pass their input on: the net starts as a wide average.
            nn.init.dirac_(convolution.weight[: convolution.in_channels])

    def forward(self, features: Tensor) -> Tensor:
        features = F.silu(self.norm1(F.max_pool2d(self.convolution1(features), 2)))
        return F.silu(self.norm2(self.convolution2(features)))


class FastCifar(nn.Module):
    """A whitening 2x2 convolution, then three blocks of 32, 128 and 128 channels.

    The first layer's filters are the whitened principal directions of 2x2 patches of train and
    their negatives; they are set once by `whiten` and do not learn.

    Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single A100 GPU" (airbench94) at half
    its width; ours pools globally at the end, so that any input size fits, has SiLU in the place of
    GELU (Hendrycks and Gimpel 2016 give the factor that makes them alike), its first layer has no
    bias, so that nothing has to be computed backwards through it, and looks in 8 of the 12
    directions of colour patches. The other four are what JPEG throws away, fine detail of colour:
    in CIFAR-10 as JPEG 0.03 % of the variance, which whitening would make as loud as all else.
    """

    MINIMUM_SIZE = 9  # 9 -> 8 -> 4 -> 2 -> 1
    DIRECTIONS = 8

    def __init__(self, shape: Shape, arguments: Arguments) -> None:
        super().__init__()
        filters = 2 * min(self.DIRECTIONS, 2 * 2 * shape.channels)
        widths = [scaled(channels, arguments.width) for channels in (32, 128, 128)]
        self.whitening = nn.Conv2d(shape.channels, filters, 2, bias=False)
        self.whitening.weight.requires_grad_(False)
        self.blocks = nn.Sequential(
            *(_Block(*pair) for pair in zip([filters, *widths], widths, strict=False))
        )
        self.head = Head(widths[-1], shape.num_classes, arguments.dropout, bias=False)
        nn.init.normal_(self.head.weight, std=1 / widths[-1])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = self.blocks(F.silu(self.whitening(images_BCHW)))
        logits: Tensor = self.head(features.amax((2, 3)) / _STEEPNESS)
        return logits

    @torch.no_grad()
    def whiten(self, normalised_BCHW: Tensor) -> None:
        """Set the first layer from images of train.

        Args:
            normalised_BCHW: A few thousand normalised images, float32.
        """
        channels = normalised_BCHW.shape[1]
        patches = normalised_BCHW.unfold(2, 2, 1).unfold(3, 2, 1).movedim(1, 3)
        flat = patches.reshape(-1, channels * 4).double()
        covariance = flat.T @ flat / len(flat)
        values, vectors = torch.linalg.eigh(covariance)
        # 5e-4 keeps directions without variance from being blown up (as in the source).
        filters = (vectors / (values.clamp_min(0) + 5e-4).sqrt()).T.float()
        filters = filters[-self.DIRECTIONS :].reshape(-1, channels, 2, 2)  # most variance last
        filters = _STEEPNESS * filters
        self.whitening.weight.copy_(torch.cat([filters, -filters]))
