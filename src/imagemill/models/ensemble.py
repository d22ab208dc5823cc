"""Several nets that answer as one.

Shapes: B batch, C channels, H height, W width, K classes, M members.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of its members' probabilities, told as its logarithm.

    Source:
        Lakshminarayanan et al. 2017, "Simple and Scalable Predictive Uncertainty Estimation using
        Deep Ensembles".
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """float32 [B, C, H, W] in 0..1 -> logits [B, K] whose softmax is the mean."""
        told_MBK = torch.stack([member(images_BCHW).log_softmax(1) for member in self.members])
        return told_MBK.logsumexp(0) - math.log(len(self.members))
