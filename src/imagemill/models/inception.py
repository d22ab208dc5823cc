"""Inception v3 with an auxiliary head that learns at every input size.

Shapes: B batch, C channels, H height, W width, K classes.
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torchvision.models import inception as published

from imagemill.models.contract import Outputs

# Szegedy et al. 2014, "Going Deeper with Convolutions", section 5: the only figure its authors
# print. Their later code for v3, and examples after it, use 0.4.
AUXILIARY_WEIGHT = 0.3
_SIDE = 17  # of the maps that reach the auxiliary head at 299 px


class _Auxiliary(published.InceptionAux):  # type: ignore[misc]
    """torchvision's second head; smaller maps than at 299 px are brought to the 5x5 it reads."""

    def forward(self, features: Tensor) -> Tensor:
        if features.shape[-1] >= _SIDE:
            logits: Tensor = super().forward(features)
            return logits
        features = self.conv1(self.conv0(F.adaptive_avg_pool2d(features, 5)))
        auxiliary: Tensor = self.fc(features.mean((2, 3)))
        return auxiliary


class InceptionV3(published.Inception3):  # type: ignore[misc]
    """torchvision's Inception v3; in training its auxiliary logits come with their weight.

    Source: Szegedy et al. 2015, "Rethinking the Inception Architecture for Computer Vision".
    """

    def __init__(self, **arguments: Any) -> None:
        blocks = [getattr(published, f"Inception{letter}") for letter in "ABCDE"]
        super().__init__(
            aux_logits=True,
            transform_input=False,
            init_weights=True,
            inception_blocks=[published.BasicConv2d, *blocks, _Auxiliary],
            **arguments,
        )

    def forward(self, images_BCHW: Tensor) -> Tensor | Outputs:
        logits_BK, auxiliary_BK = self._forward(images_BCHW)
        if auxiliary_BK is None:
            assert isinstance(logits_BK, Tensor)
            return logits_BK
        return Outputs(logits_BK, auxiliary_BK, AUXILIARY_WEIGHT)
