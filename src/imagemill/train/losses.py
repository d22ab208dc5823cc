"""LOSSES: how wrong logits are, a value for each sample or their sum.

Shapes: B samples, K classes.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Reduction = Literal["none", "sum"]


class Loss(Protocol):
    """(logits_BK, targets, smoothing) -> losses_B, or their sum.

    targets: Class ids [B], or shares of classes [B, K].
    """

    def __call__(
        self, logits_BK: Tensor, targets: Tensor, smoothing: float, reduction: Reduction = "none"
    ) -> Tensor: ...


@dataclass(frozen=True)
class Targets:
    """What a batch should be told to be.

    own_B: Class ids.
    others_B: Class ids of what the images are mixed with; None: nothing is mixed.
    shares_B: How much of each target is the own class, float32 in 0..1.
    """

    own_B: Tensor
    others_B: Tensor | None = None
    shares_B: Tensor | None = None

    def for_loss(self, num_classes: int) -> Tensor:
        """Class ids [B], or where images are mixed the shares of all classes, float32 [B, K]."""
        if self.others_B is None or self.shares_B is None:
            return self.own_B
        own_BK, others_BK = (F.one_hot(ids, num_classes) for ids in (self.own_B, self.others_B))
        shares_B1 = self.shares_B[:, None]
        return shares_B1 * own_BK + (1 - shares_B1) * others_BK

    def split(self, parts: int) -> "list[Targets]":
        """The targets of so many parts of the batch, in order; sizes differ by one at most."""
        own = self.own_B.tensor_split(parts)
        if self.others_B is None or self.shares_B is None:
            return [Targets(part) for part in own]
        others, shares = self.others_B.tensor_split(parts), self.shares_B.tensor_split(parts)
        return [Targets(*part) for part in zip(own, others, shares, strict=True)]

    def dominant(self) -> Tensor:
        """The class with the larger share, [B]: what accuracy counts."""
        if self.others_B is None or self.shares_B is None:
            return self.own_B
        return torch.where(self.shares_B >= 0.5, self.own_B, self.others_B)


def cross_entropy(
    logits_BK: Tensor, targets: Tensor, smoothing: float, reduction: Reduction = "none"
) -> Tensor:
    """Negative log-likelihood against smoothed targets, float32 [B] or their sum."""
    logits_BK = logits_BK.float()
    return F.cross_entropy(logits_BK, targets, reduction=reduction, label_smoothing=smoothing)


def mean_squared_error(
    logits_BK: Tensor, targets: Tensor, smoothing: float, reduction: Reduction = "none"
) -> Tensor:
    """Mean over classes of (softmax - target)^2, float32 [B] or their sum.

    Class ids count as one-hot.
    """
    assert smoothing == 0, "params refuse smoothing with mse"
    probs_BK = logits_BK.float().softmax(1)
    if targets.ndim == 1:
        targets = F.one_hot(targets, logits_BK.shape[1]).float()
    losses_B = (probs_BK - targets).square().mean(1)
    return losses_B if reduction == "none" else losses_B.sum()


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mse": mean_squared_error}


@dataclass(frozen=True)
class Teacher:
    """A trained model whose outputs a student learns from.

    model: Takes the student's images, returns logits [B, K]; it is not changed.
    temperature: Softens both outputs.
    alpha: Weight of the teacher's part; 1 - alpha is the labels'.
    """

    model: nn.Module
    temperature: float
    alpha: float

    def blend(self, losses_B: Tensor, logits_BK: Tensor, images_BCHW: Tensor) -> Tensor:
        """The labels' losses and the teacher's together, [B].

        Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network": the divergence
        between softened outputs, times temperature squared.
        """
        with torch.no_grad():
            guide_BK = self.model(images_BCHW).float() / self.temperature
        student_BK = (logits_BK.float() / self.temperature).log_softmax(1)
        divergence_B = F.kl_div(
            student_BK, guide_BK.log_softmax(1), reduction="none", log_target=True
        ).sum(1)
        return (1 - self.alpha) * losses_B + self.alpha * self.temperature**2 * divergence_B
