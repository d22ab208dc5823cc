"""Rank 0 keeps the optimiser: gradients go to it, and new weights come back."""

from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from imagemill.train.checkpoint import Tensors
from imagemill.train.ema import Ema
from imagemill.train.strategies.single import Single
from imagemill.train.strategies.vectors import (
    flat,
    flat_gradient,
    learned_by,
    put,
    put_gradient,
)


class ParameterServer(Single):
    """Synchronous: a step ends when all gradients have come and all have the new weights.

    Only rank 0 clips, steps and has optimiser values.

    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server"; one
    server, on collectives (see docs/decisions/0016-parameter-server-on-collectives.md).
    """

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model itself."""
        self._learned = learned_by(model)
        return model

    def combine(self, model: nn.Module) -> None:
        """Sum gradients on rank 0."""
        del model  # its parameters that learn are known
        if self.ranks.world == 1:
            return
        gradient = flat_gradient(self._learned)
        torch.distributed.reduce(gradient, 0)
        if self.ranks.reports:
            put_gradient(self._learned, gradient)

    def clip(self, model: nn.Module, norm: float) -> Tensor:
        """Rank 0 alone has the gradient of the global batch."""
        if self.ranks.reports:
            return super().clip(model, norm)
        return torch.zeros(())

    @torch.no_grad()
    def take_step(self, optimizer: Optimizer) -> None:
        """Rank 0 steps and sends the weights."""
        if self.ranks.reports:
            optimizer.step()
        if self.ranks.world > 1:
            weights = flat(self._learned)
            torch.distributed.broadcast(weights, 0)
            put(self._learned, weights)

    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Weights are equal already; statistics are those of rank 0."""
        self.share_statistics(model, ema)

    def read(self, folder: Path, like: Tensors) -> Tensors:
        """Only rank 0 has an optimiser to put values into."""
        tensors = super().read(folder, like)
        if self.ranks.reports:
            return tensors
        return {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
