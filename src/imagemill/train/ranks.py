"""This process among those that train together, and what they tell one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    rank: From 0.
    world: How many there are.
    device: Where what they exchange lies.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def reports(self) -> bool:
        """Whether this is the one that reports, judges in public and writes files."""
        return self.rank == 0

    def summed(self, tensor: Tensor) -> Tensor:
        """Sum over all ranks, on all ranks, in place."""
        if self.world > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks, on all ranks."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        found: list[float] = tensor.tolist()
        return found

    def meet(self) -> None:
        """Wait until all ranks are here."""
        self.largest([0.0])

    def share_first(self, tensors: Sequence[Tensor]) -> None:
        """Rank 0's values, on all ranks, in place."""
        if self.world > 1:
            for tensor in tensors:
                if tensor.numel():
                    torch.distributed.broadcast(tensor, 0)


def own_part(tensor: Tensor) -> Tensor:
    """What of a tensor lies on this rank: of a sharded one its shard, else all of it. No copy."""
    # Asking for the class itself would import it: a second that only sharded training has to pay.
    to_local: Callable[[], Tensor] | None = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


ALONE = Ranks(rank=0, world=1, device=torch.device("cpu"))
