"""Sharded: every rank keeps a part of each weight, gradient and optimiser value."""

import copy
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from imagemill.train.checkpoint import Tensors
from imagemill.train.ema import Ema
from imagemill.train.shards import write_shards
from imagemill.train.strategies.single import Single


class Fsdp(Single):
    """torch's fully_shard: blocks are put together when they compute, and taken apart again.

    Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel",
    in torch's second form, whose parameters are DTensors sharded by rows.
    """

    def place(self, model: nn.Module) -> nn.Module:
        """A sharded copy; the model itself keeps no weights until they are given back."""
        # Gradients are averaged over ranks: times the ranks they are the sum.
        self.loss_factor = float(self.ranks.world)
        if self.ranks.world == 1:
            return super().place(model)
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # Rows of channels-last filters do not lie together.
        trained = super().place(copy.deepcopy(model).to(memory_format=torch.contiguous_format))
        mesh = init_device_mesh(self.machine.device.type, (self.ranks.world,))
        for block in [*_blocks(trained), trained]:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        for parameter in model.parameters():
            parameter.data = parameter.data.new_empty(0)
        return trained

    def give_back(self, trained: nn.Module, model: nn.Module) -> None:
        """Put the weights together, on all ranks."""
        if trained is model:
            super().give_back(trained, model)
            return
        from torch.distributed.tensor import DTensor

        layout = self.machine.memory_format
        stored = trained.state_dict()
        for name, parameter in model.named_parameters():
            value = stored[name]
            assert isinstance(value, DTensor)
            whole = value.full_tensor().detach()
            parameter.data = whole.to(memory_format=layout) if whole.ndim == 4 else whole
        for name, buffer in model.named_buffers():
            if name in stored:
                buffer.copy_(stored[name])

    def combined(self, replica: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here, whole, until the last pass of a step."""
        from torch.distributed.fsdp import FSDPModule

        if isinstance(replica, FSDPModule):
            replica.set_requires_gradient_sync(last)
        return nullcontext()

    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Running statistics are not sharded: those of rank 0 count."""
        self.share_statistics(model, ema)

    def write(self, folder: Path, tensors: Tensors) -> None:
        """Every rank writes its shards."""
        if self.ranks.world == 1:
            super().write(folder, tensors)
        else:
            write_shards(folder, tensors)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """What is put together at a time: layers that consist of layers; the rest is the root's."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList) or child is _network(module):
            found += _blocks(child)
        elif any(True for _ in child.children()) and any(True for _ in child.parameters()):
            found.append(child)
    return found


def _network(module: nn.Module) -> nn.Module | None:
    """What stands behind the normalisation, if this is a model as MODELS build it."""
    if isinstance(module, nn.Sequential) and len(module) == 2:
        return module[1]
    return None
