"""All-reduce: every rank has all weights, and gradients are summed over ranks."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from imagemill.train.ema import Ema
from imagemill.train.strategies.shared import SharedSum, shared_memory
from imagemill.train.strategies.single import Single
from imagemill.train.strategies.vectors import learned_by


class Ddp(Single):
    """On CPUs of one machine a sum in shared memory, everywhere else torch's
    DistributedDataParallel, which exchanges gradients while others are still computed.

    On a CPU there is nothing to hide an exchange behind: what it takes, computing waits for.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel
    Training".
    """

    _shared: SharedSum | None = None

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model, in a DistributedDataParallel where gradients do not go through memory."""
        if self.ranks.world == 1:
            return model
        self._shared = self._through_memory(model)
        if self._shared is not None:
            self.ranks.share_first(list(model.state_dict().values()))
            return model
        # Averages of the parts' sums: times the ranks they are the sum.
        self.loss_factor = float(self.ranks.world)
        devices = [self.machine.device] if self.machine.device.type == "cuda" else None
        transfer = self.train.transfer
        replica: nn.Module = DistributedDataParallel(
            model,
            device_ids=devices,
            # A gradient lies where it is exchanged: no copies there and back.
            gradient_as_bucket_view=True,
            # Blocks that are frozen for now give no gradient to wait for.
            find_unused_parameters=bool(transfer and transfer.freezes),
        )
        return replica

    def _through_memory(self, model: nn.Module) -> SharedSum | None:
        learned = learned_by(model)
        if any(p.device.type != "cpu" or p.dtype != torch.float32 for p in learned):
            return None
        memory = shared_memory(SharedSum.bytes_of(learned, self.ranks.world), self.ranks)
        if memory is None:
            return None
        changed = self.train.l1 is not None or self.train.clip_norm is not None
        return SharedSum(memory, learned, self.ranks, changed=changed)

    def combined(self, replica: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here until the last pass of a step."""
        if last or not isinstance(replica, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], replica.no_sync())

    def combine(self, model: nn.Module) -> None:
        """Sum gradients, unless it is done."""
        del model  # its parameters that learn are known
        if self._shared is not None:
            self._shared.sum()

    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Running statistics are those of rank 0, which has seen no other's."""
        self.share_statistics(model, ema)
