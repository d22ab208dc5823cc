"""One process, and what every strategy does unless it says otherwise."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.params import TrainParams
from imagemill.train.checkpoint import Tensors, write_whole
from imagemill.train.ema import Ema
from imagemill.train.machine import Machine
from imagemill.train.norms import GlobalBatchNorm, desynchronise, synchronise
from imagemill.train.optimizers import build_optimizer
from imagemill.train.ranks import Ranks
from imagemill.train.shards import read_tensors


class Single:
    """One process. The others override what they do differently.

    A training is: `place`, `replicate`, `optimizer`, steps, `give_back`. A step is: `begin_step`,
    the forward pass of the replica, `combined` backward passes, `combine` and `clip` the
    gradient, `take_step`.
    """

    # What a rank's part of the mean over the global batch is multiplied with before the backward
    # pass, so that the combined gradient is that of the mean.
    loss_factor = 1.0

    def __init__(self, train: TrainParams, ranks: Ranks, machine: Machine) -> None:
        self.train, self.ranks, self.machine = train, ranks, machine
        self._norms: list[GlobalBatchNorm] = []

    def place(self, model: nn.Module) -> nn.Module:
        """What is trained for a model: by default itself."""
        if self.train.synchronise_norms and self.ranks.world > 1:
            self._norms = synchronise(model)
        return model

    def give_back(self, trained: nn.Module, model: nn.Module) -> None:
        """Leave the trained weights in the model `place` was given; training is over."""
        assert trained is model, "who places another one gives it back"
        desynchronise(self._norms)

    def replicate(self, model: nn.Module) -> nn.Module:
        """What the forward pass is called on; called once, before `optimizer`."""
        return model

    def begin_step(self, *, counted: bool) -> None:
        """Before the first forward pass of a step.

        Args:
            counted: Whether this rank has samples of its own; if not, what it computes on must
                not change what others do.
        """
        for norm in self._norms:
            norm.counted = counted

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

    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Let all ranks have the same weights and statistics; before they judge or are saved."""

    def share_statistics(self, model: nn.Module, ema: Ema | None) -> None:
        """Running statistics, and their averages, become those of rank 0."""
        buffers = dict(model.named_buffers())
        averages = [ema.tensors[name] for name in buffers if name in ema.tensors] if ema else []
        self.ranks.share_first([*buffers.values(), *averages])

    def write(self, folder: Path, tensors: Tensors) -> None:
        """Write a checkpoint's tensors into a folder; called on all ranks, after `settle`."""
        if self.ranks.reports:
            write_whole(folder, tensors)

    def read(self, folder: Path, like: Tensors) -> Tensors:
        """What any strategy wrote, in the form of `like`: names and kinds of tensors here."""
        return read_tensors(folder, like)

    def measured(self) -> Mapping[str, float | None]:
        """What a strategy has to tell beside the loop's own figures, since the last time."""
        return {}

    def close(self) -> None:
        """Training is over, or failed."""
