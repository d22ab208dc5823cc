"""Sums of gradients over the processes of one machine, through memory that all of them see.

Through a socket the system copies every value several times; here each process writes its gradient
once and reads the sum once. Shapes: R ranks, P values of all gradients, T tensors.
"""

import mmap
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from imagemill.train.ranks import Ranks

_DTYPE = torch.float32
_NAME = "imagemill-gradients-{token}"


class SharedSum:
    """Sums the gradients of all ranks; all end with the same bits.

    A step: write all of one's own gradient, wait for the others, add up one's own part of the sum,
    wait again, read the whole sum. What is read is written again only after the next step's first
    wait, when all are done with it. The waits are the process group's, so a rank that is lost is
    missed as in any other exchange. The memory has no name: it is gone with the last process,
    however that ends.

    Source: the two halves of an all-reduce (Rabenseifner 2004, "Optimization of Collective
    Reduction Operations"), with reads in the place of messages.

    Args:
        memory: `bytes_of` long, the same on all ranks.
        parameters: Float32, on the CPU, in the order all ranks know.
        ranks: Those that see the memory.
        changed: Whether somebody changes gradients after the sum. Then each rank has its own copy;
            else all read the same one.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        parameters: Sequence[nn.Parameter],
        ranks: Ranks,
        *,
        changed: bool,
    ) -> None:
        self._parameters, self._ranks, self._changed = parameters, ranks, changed
        count, world = _count(parameters), ranks.world
        values = torch.frombuffer(memory, dtype=_DTYPE, count=(world + 1) * count)
        *self._gradients_P, self._sum_P = torch.split(values, count)
        self._part = slice(count * ranks.rank // world, count * (ranks.rank + 1) // world)
        self._written_T = _views(self._gradients_P[ranks.rank], parameters)
        self._read_T = _views(self._sum_P, parameters)
        self._there_RT = torch.frombuffer(memory, dtype=torch.bool, offset=values.nbytes).view(
            world, len(parameters)
        )

    @staticmethod
    def bytes_of(parameters: Sequence[nn.Parameter], world: int) -> int:
        """What it takes: the gradients of all ranks, their sum, and which ones there are."""
        return (world + 1) * _count(parameters) * _DTYPE.itemsize + world * len(parameters)

    @torch.no_grad()
    def sum(self) -> None:
        """Turn each gradient into the sum over all ranks; one that no rank has stays None."""
        self._there_RT[self._ranks.rank] = torch.tensor(
            [parameter.grad is not None for parameter in self._parameters]
        )
        for parameter, written in zip(self._parameters, self._written_T, strict=True):
            if parameter.grad is None:
                written.zero_()
            else:
                written.copy_(parameter.grad)
        self._ranks.meet()
        first, *others = (gradient_P[self._part] for gradient_P in self._gradients_P)
        for gradient in others:
            first = torch.add(first, gradient, out=self._sum_P[self._part])
        there_T = self._there_RT.any(0).tolist()
        self._ranks.meet()
        for parameter, read, is_there in zip(self._parameters, self._read_T, there_T, strict=True):
            if is_there:
                parameter.grad = read.clone() if self._changed else read


def shared_memory(size_bytes: int, ranks: Ranks) -> mmap.mmap | None:
    """Zeros that all ranks see; None on all if one cannot: it is on another machine, in a container
    of its own, or the system is not Linux.

    Args:
        size_bytes: How many.
        ranks: More than one; all call this.
    """
    made, token = -1, secrets.randbits(62)
    if ranks.reports and hasattr(os, "memfd_create"):
        made = os.memfd_create(_NAME.format(token=token), os.MFD_CLOEXEC)
        os.ftruncate(made, size_bytes)
    told = torch.tensor([os.getpid(), made, token])
    ranks.share_first([told])
    process, descriptor, token = told.tolist()
    path = Path(f"/proc/{process}/fd/{descriptor}")
    seen = _seen(path, _NAME.format(token=token), size_bytes)
    (is_missed,) = ranks.largest([float(seen is None)])
    if made >= 0:
        os.close(made)
    return None if is_missed else seen


def _seen(path: Path, name: str, size_bytes: int) -> mmap.mmap | None:
    """Another process's memory, if it can be opened and is the one of that name."""
    try:
        if name not in str(path.readlink()):
            return None
        opened = os.open(path, os.O_RDWR)
    except OSError:
        return None
    try:
        return mmap.mmap(opened, size_bytes)
    finally:
        os.close(opened)


def _count(parameters: Sequence[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _views(values_P: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Views of a vector that lie as the parameters do, so that copies run from end to end."""
    parts = torch.split(values_P, [parameter.numel() for parameter in parameters])
    return [
        part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
        for part, parameter in zip(parts, parameters, strict=True)
    ]
