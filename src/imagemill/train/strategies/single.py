"""One process, and what every strategy does unless it says otherwise."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.params import TrainParams
from imagemill.train.checkpoint import Tensors, read_whole, write_whole
from imagemill.train.machine import Machine
from imagemill.train.optimizers import build_optimizer
from imagemill.train.ranks import Ranks


class Single:
    """One process. The others override what they do differently.

    A step of the loop is: the forward pass of `replica`, `combined` backward passes, gradients
    that are those of the global batch, `take_step`.
    """

    # What a rank's part of the mean over the global batch is multiplied with before the backward
    # pass, so that the combined gradient is that of the mean.
    loss_factor = 1.0

    def __init__(self, train: TrainParams, ranks: Ranks, machine: Machine) -> None:
        self.train, self.ranks, self.machine = train, ranks, machine

    def replicate(self, model: nn.Module) -> nn.Module:
        """What the forward pass is called on; called once, before `optimizer`."""
        return model

    def optimizer(self, model: nn.Module) -> Optimizer:
        """The optimiser of the model's parameters."""
        return build_optimizer(model, self.train)

    def combined(self, replica: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass.

        Args:
            replica: What the pass is called on.
            last: Whether it is the last of the step; only that one has to talk to other ranks.
        """
        del replica, last
        return nullcontext()

    def combine(self, model: nn.Module) -> None:
        """After the last backward pass: make the gradients those of the global batch."""

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Shorten the gradient to at most `norm`; returns the norm it had."""
        return torch.nn.utils.clip_grad_norm_(model.parameters(), norm)

    def take_step(self, optimizer: Optimizer) -> None:
        """Turn gradients into new weights."""
        optimizer.step()

    def settle(self, model: nn.Module) -> None:
        """Let all ranks have the same weights and statistics; before they judge or are saved."""

    def write(self, folder: Path, tensors: Tensors) -> None:
        """Write a checkpoint's tensors into a folder; called on all ranks, after `settle`."""
        if self.ranks.reports:
            write_whole(folder, tensors)

    def read(self, folder: Path, like: Tensors) -> Tensors:
        """What any strategy wrote, in the form of `like`: names and kinds of tensors here."""
        del like
        return read_whole(folder)

    def measured(self) -> Mapping[str, float | None]:
        """What a strategy has to tell beside the loop's own figures, since the last time."""
        return {}

    def close(self) -> None:
        """Training is over, or failed."""
