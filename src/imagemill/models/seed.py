"""The small nets that introductions to deep learning start from."""

import torch.nn.functional as F
from torch import Tensor, nn

from imagemill.models.contract import Arguments, Shape
from imagemill.models.layers import Head


def scaled(channels: int, width: float) -> int:
    """Channels at a relative width; never less than 1."""
    return max(1, round(channels * width))


class SeedMinimal(nn.Module):
    """One 5x5 convolution, ReLU, 2x2 max-pool, one linear layer.

    Source: the textbook example of 100 grey images of 28x28; 8 filters.
    """

    MINIMUM_SIZE = 6  # 6 -> 2 -> 1

    def __init__(self, shape: Shape, arguments: Arguments) -> None:
        super().__init__()
        filters = scaled(8, arguments.width)
        side = (shape.input_size - 4) // 2
        self.convolution = nn.Conv2d(shape.channels, filters, 5)
        self.head = Head(filters * side * side, shape.num_classes, arguments.dropout)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(self.convolution(images_BCHW)), 2)
        logits: Tensor = self.head(features.flatten(1))
        return logits


class SeedMnist(nn.Module):
    """Conv 32, pool, conv 64, pool, conv 64 (all 3x3, ReLU, unpadded), dense 64, dense K.

    Source: the Keras tutorial net for MNIST; 93,322 parameters at 28x28x1 and 10 classes.
    """

    MINIMUM_SIZE = 18  # 18 -> 16 -> 8 -> 6 -> 3 -> 1

    def __init__(self, shape: Shape, arguments: Arguments) -> None:
        super().__init__()
        few, many = scaled(32, arguments.width), scaled(64, arguments.width)
        side = ((shape.input_size - 2) // 2 - 2) // 2 - 2
        self.convolution1 = nn.Conv2d(shape.channels, few, 3)
        self.convolution2 = nn.Conv2d(few, many, 3)
        self.convolution3 = nn.Conv2d(many, many, 3)
        self.hidden = nn.Linear(many * side * side, many)
        self.head = Head(many, shape.num_classes, arguments.dropout)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(self.convolution1(images_BCHW)), 2)
        features = F.max_pool2d(F.relu(self.convolution2(features)), 2)
        features = F.relu(self.convolution3(features)).flatten(1)
        logits: Tensor = self.head(F.relu(self.hidden(features)))
        return logits


class SeedCifar(nn.Module):
    """Conv 6, pool, conv 16, pool (5x5, ReLU, unpadded), dense 120, 84, K.

    Source: LeCun et al. 1998 (LeNet-5) as in PyTorch's CIFAR-10 tutorial; 62,006 parameters at
    32x32x3 and 10 classes.
    """

    MINIMUM_SIZE = 16  # 16 -> 12 -> 6 -> 2 -> 1

    def __init__(self, shape: Shape, arguments: Arguments) -> None:
        super().__init__()
        few, many = scaled(6, arguments.width), scaled(16, arguments.width)
        wide, narrow = scaled(120, arguments.width), scaled(84, arguments.width)
        side = ((shape.input_size - 4) // 2 - 4) // 2
        self.convolution1 = nn.Conv2d(shape.channels, few, 5)
        self.convolution2 = nn.Conv2d(few, many, 5)
        self.hidden1 = nn.Linear(many * side * side, wide)
        self.hidden2 = nn.Linear(wide, narrow)
        self.head = Head(narrow, shape.num_classes, arguments.dropout)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features = F.max_pool2d(F.relu(self.convolution1(images_BCHW)), 2)
        features = F.max_pool2d(F.relu(self.convolution2(features)), 2).flatten(1)
        features = F.relu(self.hidden2(F.relu(self.hidden1(features))))
        logits: Tensor = self.head(features)
        return logits
