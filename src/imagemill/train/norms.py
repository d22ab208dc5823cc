"""Batch norm over the global batch, on CPUs too (torch's SyncBatchNorm refuses them).

Shapes: B samples of this rank, N of all ranks, C H W.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn


class GlobalBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d whose statistics are those of all ranks' samples together.

    Its parameters, buffers and their names are those of BatchNorm2d, and on one rank it computes
    the same. One all-reduce of 2C + 1 numbers in the forward pass, one in the backward pass.
    """

    counted: bool  # whether this rank's samples count

    def forward(self, input: Tensor) -> Tensor:
        """Normalise [B, C, H, W]; the work of all ranks together while training."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None
        # About the running mean, which all ranks share: little is lost in squares of differences.
        centred = input.float() - self.running_mean[:, None, None]
        number = torch.full_like(self.running_mean[:1], input.numel() / input.shape[1])
        own = torch.cat([centred.sum((0, 2, 3)), centred.square().sum((0, 2, 3)), number])
        total: Tensor = _Summed.apply(own if self.counted else own * 0)
        shift_C, squares_C = (total[:-1] / total[-1]).chunk(2)
        var_C = (squares_C - shift_C.square()).clamp_min(0)
        scale_C = (var_C + self.eps).rsqrt()
        if self.affine:
            scale_C = scale_C * self.weight
        offset_C = -shift_C * scale_C
        if self.affine:
            offset_C = offset_C + self.bias
        self._remember(shift_C, var_C, total[-1])
        normalised = centred * scale_C[:, None, None] + offset_C[:, None, None]
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _remember(self, shift_C: Tensor, var_C: Tensor, number: Tensor) -> None:
        """Let the running statistics move, the variance without bias, as BatchNorm2d does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum
        weight = 1 / float(self.num_batches_tracked) if share is None else share
        self.running_mean.add_(shift_C, alpha=weight)
        self.running_var.lerp_(var_C * (number / (number - 1).clamp_min(1)), weight)


@contextmanager
def resting(model: nn.Module, *, images: int) -> Iterator[None]:
    """Where a single image is all there is, norms use their running statistics meanwhile.

    One image has no statistics of its own, and none at all where its maps are one pixel large;
    norms over all ranks have those of the others.

    Args:
        model: While training.
        images: How many it is shown.
    """
    norms = [
        part
        for part in (model.modules() if images == 1 else ())
        if isinstance(part, nn.modules.batchnorm._BatchNorm)
        and part.training
        and not isinstance(part, GlobalBatchNorm)
    ]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def synchronise(model: nn.Module) -> list[GlobalBatchNorm]:
    """Turn every BatchNorm2d of a model into a GlobalBatchNorm, in place; returns them.

    A norm that does more (skip a branch) goes on doing it, around what it inherits.
    """
    norms: list[GlobalBatchNorm] = []
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats:
            layer.__class__ = _global(type(layer))
            assert isinstance(layer, GlobalBatchNorm)
            layer.counted = True
            norms.append(layer)
    return norms


def desynchronise(norms: list[GlobalBatchNorm]) -> None:
    """Turn them back."""
    for layer in norms:
        del layer.counted
        layer.__class__ = type(layer).__bases__[0]


def _global(norm: type[nn.BatchNorm2d]) -> type[GlobalBatchNorm]:
    """The same kind of norm over the global batch; its first base is what it was."""
    if norm is nn.BatchNorm2d:
        return GlobalBatchNorm
    return type(f"Global{norm.__name__}", (norm, GlobalBatchNorm), {})


class _Summed(torch.autograd.Function):
    """Sum over all ranks; so is the gradient, since what each rank adds moves all their losses."""

    @staticmethod
    def forward(_: Any, own: Tensor) -> Tensor:
        return _all_reduced(own)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient)


def _all_reduced(tensor: Tensor) -> Tensor:
    total = tensor.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
    return total
