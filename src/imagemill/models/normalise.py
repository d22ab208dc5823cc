"""The first layer of every model: pixels in 0..1 to zero mean and unit variance."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std per channel, with statistics that are stored with the weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # A constant channel has no spread: it is centred and left unscaled.
        spread = torch.tensor([value if value > 1e-6 else 1.0 for value in std])
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1))
        self.register_buffer("scale", (1 / spread).view(1, -1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return (images_BCHW - self.mean) * self.scale
