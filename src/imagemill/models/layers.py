"""Layers that drop something while training, and are plain ones otherwise, their names included."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Linear):
    """The last layer; a share of the features it reads is set to zero while training.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from
    Overfitting"; ours scales what stays while training, so that nothing is scaled afterwards.
    """

    def __init__(
        self, num_features: int, num_classes: int, dropout: float, *, bias: bool = True
    ) -> None:
        super().__init__(num_features, num_classes, bias=bias)
        self.dropout = dropout

    @classmethod
    def like(cls, layer: nn.Linear, dropout: float) -> "Head":
        """A head with the weights of a linear layer."""
        head = cls(layer.in_features, layer.out_features, dropout)
        head.weight, head.bias = layer.weight, layer.bias
        return head

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.dropout(input, self.dropout, self.training))


class BranchNorm(nn.BatchNorm2d):
    """The norm at the end of a residual branch; a share of the images skips it while training.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth"; ours draws for each image
    instead of each batch, and scales the branches that stay while training instead of all of them
    afterwards.
    """

    def __init__(
        self, channels: int, skipped: float, *, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.skipped = skipped

    def forward(self, input: Tensor) -> Tensor:
        branch: Tensor = super().forward(input)
        if not self.training or not self.skipped:
            return branch
        kept = 1 - self.skipped
        drawn = torch.empty(len(branch), 1, 1, 1, dtype=branch.dtype, device=branch.device)
        return branch * drawn.bernoulli_(kept) / kept


def linear_rule(stochastic_depth: float, block: int, num_blocks: int) -> float:
    """Share of the images that skip a block: grows with depth, from near 0 to the whole share.

    Args:
        stochastic_depth: Share of the last block.
        block: Its number, 1 the first.
        num_blocks: How many there are.
    """
    return stochastic_depth * block / num_blocks
