"""All-reduce: every rank has all weights, and gradients are averaged while they are computed."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from imagemill.train.ema import Ema
from imagemill.train.strategies.single import Single


class Ddp(Single):
    """torch's DistributedDataParallel.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel
    Training".
    """

    def replicate(self, model: nn.Module) -> nn.Module:
        """The model in a DistributedDataParallel; its gradients are averaged over ranks."""
        # Averages of the parts' sums: times the ranks they are the sum.
        self.loss_factor = float(self.ranks.world)
        if self.ranks.world == 1:
            return model
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

    def combined(self, replica: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Gradients stay here until the last pass of a step."""
        if last or not isinstance(replica, DistributedDataParallel):
            return nullcontext()
        return cast(AbstractContextManager[None], replica.no_sync())

    def settle(self, model: nn.Module, ema: Ema | None) -> None:
        """Running statistics are those of rank 0, as in every forward pass."""
        self.share_statistics(model, ema)
