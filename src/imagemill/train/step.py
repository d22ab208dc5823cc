"""One optimiser step: forward, backward, and what stands between gradients and new weights.

Shapes: B samples of this rank in a step, K classes, C H W pixels.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.models import split_outputs
from imagemill.params import TrainParams
from imagemill.train.losses import LOSSES, Reduction, Targets, Teacher
from imagemill.train.machine import Machine
from imagemill.train.norms import resting
from imagemill.train.optimizers import set_rate
from imagemill.train.strategies import Single
from imagemill.train.watching.norms import Look


class Taken(NamedTuple):
    """What a step says of its B images, on the device.

    loss: Sum of their losses.
    hits: How many were told right.
    losses_B: Of each; None: nobody asks for them.
    """

    loss: Tensor
    hits: Tensor
    losses_B: Tensor | None


class Stepper:
    """Takes steps with a model.

    Args:
        model: On its device.
        strategy: How ranks come to the same weights.
        train: Loss, accumulation, clipping and the optimiser.
        machine: Where to compute.
        teacher: Whose outputs to learn beside the labels, if any.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: Single,
        train: TrainParams,
        machine: Machine,
        teacher: Teacher | None,
    ) -> None:
        self.model, self.train, self.machine, self.teacher = model, train, machine, teacher
        self.strategy = strategy
        replica = strategy.replicate(model)
        # Callable all the same; torch types it as a function.
        self.replica: Callable[[Tensor], Any] = torch.compile(replica) if train.compile else replica
        self._combined = partial(strategy.combined, replica)
        self.optimizer: Optimizer = strategy.optimizer(model)
        self.scaler = torch.amp.GradScaler(
            machine.device.type, enabled=machine.precision == torch.float16
        )
        self._loss = LOSSES[train.loss]
        self._separately = teacher is not None or train.selection is not None
        self._parameters = list(model.parameters())
        self._gradient = torch.ones((), device=machine.device)  # of a sum of losses
        self._gradient_value = 1.0

    def take(
        self,
        images_BCHW: Tensor,
        targets: Targets,
        *,
        share: float,
        fewest: int,
        rate: float,
        look: Look | None = None,
    ) -> Taken:
        """One step.

        Args:
            images_BCHW: Float32 in 0..1.
            targets: Of these images.
            share: What the sum of this rank's losses is multiplied with to be its part of the
                global batch's mean; 0 on a rank whose image counts for nothing.
            fewest: Images of the rank that has fewest, so that all compute in as many parts.
            rate: Learning rate.
            look: Measures gradients, and activations apart, if this step is looked at.
        """
        if look is not None:
            look.at_images(self.model, images_BCHW, self.machine)
        self.strategy.begin_step(counted=share > 0)
        set_rate(self.optimizer, rate)
        for parameter in self._parameters:  # a fifth of what zero_grad takes
            parameter.grad = None
        gradient = self._gradient_of(share * self.strategy.loss_factor)
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        for part_BCHW, wanted, last in self._parts(images_BCHW, targets, fewest):
            with self._combined(last=last):
                part, logits_BK = self._forward(part_BCHW, wanted)
                total = part.sum() if self._separately else part
                self.scaler.scale(total).backward(gradient)  # type: ignore[no-untyped-call]
            losses.append(part.detach())
            hits.append((logits_BK.argmax(1) == wanted.dominant()).sum())
        self.strategy.combine(self.model)
        if look is not None:
            look.at_gradients(self.model, self.scaler.get_scale())
        if self.train.l1 is not None or self.train.clip_norm is not None:
            self._shape_gradients()
        self._step()
        if self._separately:
            losses_B = torch.cat(losses)
            return Taken(losses_B.sum(), torch.stack(hits).sum(), losses_B)
        if len(losses) == 1:
            return Taken(losses[0], hits[0], None)
        return Taken(torch.stack(losses).sum(), torch.stack(hits).sum(), None)

    def _gradient_of(self, value: float) -> Tensor:
        """What a sum of losses is multiplied with, as the gradient its backward pass begins with:
        the same numbers as a product would give, without the product's own two passes."""
        if value != self._gradient_value:
            self._gradient_value = value
            self._gradient = torch.tensor(value, device=self.machine.device)
        return self._gradient

    def _parts(
        self, images_BCHW: Tensor, targets: Targets, fewest: int
    ) -> Iterator[tuple[Tensor, Targets, bool]]:
        count = min(self.train.accumulate or 1, fewest)
        if count == 1:
            yield images_BCHW, targets, True
            return
        parts = zip(images_BCHW.tensor_split(count), targets.split(count), strict=True)
        for number, (part_BCHW, wanted) in enumerate(parts):
            yield part_BCHW, wanted, number == count - 1

    def _forward(self, images_BCHW: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Losses [B], or their sum where nobody asks for each, and logits [B, K]."""
        with self.machine.autocast(), resting(self.model, images=len(images_BCHW)):
            outputs = self.replica(images_BCHW)
        logits_BK, auxiliaries = split_outputs(outputs)
        wanted, smoothing = targets.for_loss(logits_BK.shape[1]), self.train.label_smoothing
        # Summed by the loss itself, the sum needs no backward pass of its own.
        reduction: Reduction = "none" if self._separately else "sum"
        losses = self._loss(logits_BK, wanted, smoothing, reduction)
        for weight, auxiliary_BK in auxiliaries:
            losses = losses + weight * self._loss(auxiliary_BK, wanted, smoothing, reduction)
        if self.teacher is None:
            return losses, logits_BK
        with self.machine.autocast():
            return self.teacher.blend(losses, logits_BK, images_BCHW), logits_BK

    @torch.no_grad()
    def _shape_gradients(self) -> None:
        """L1's part, then clipping, on the gradient of the global batch."""
        self.scaler.unscale_(self.optimizer)
        if self.train.l1 is not None:
            for parameter in self.model.parameters():
                if parameter.grad is not None and parameter.ndim > 1:
                    parameter.grad.add_(parameter.sign(), alpha=self.train.l1)
        if self.train.clip_norm is not None:
            self.strategy.clip(self.model, self.train.clip_norm)

    def _step(self) -> None:
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.strategy.take_step(self.optimizer)
