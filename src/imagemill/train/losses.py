"""LOSSES: how wrong logits are, a value for each sample.

Shapes: B samples, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor, float], Tensor]


def cross_entropy(logits_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    """Negative log-likelihood against smoothed one-hot targets, float32 [B]."""
    return F.cross_entropy(
        logits_BK.float(), targets_B, reduction="none", label_smoothing=smoothing
    )


def mean_squared_error(logits_BK: Tensor, targets_B: Tensor, smoothing: float) -> Tensor:
    """Mean over classes of (softmax - one-hot)^2, float32 [B]."""
    assert smoothing == 0, "params refuse smoothing with mse"
    probs_BK = logits_BK.float().softmax(1)
    one_hot_BK = F.one_hot(targets_B, logits_BK.shape[1]).float()
    return (probs_BK - one_hot_BK).square().mean(1)


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
