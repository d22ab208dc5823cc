"""Sums of gradients over the processes of one machine, through memory that all of them see.

Through a socket the system copies every value several times; here each process writes its gradient
once and reads the sum once. Shapes: R ranks, P values of all gradients, T tensors.
"""

import mmap
import os
import secrets
from pathlib import Path

import torch
from torch import nn

from imagemill.train.ranks import Ranks
from imagemill.train.strategies.vectors import length, views, write_gradient

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
        parameters: list[nn.Parameter],
        ranks: Ranks,
        *,
        changed: bool,
    ) -> None:
        self._parameters, self._ranks, self._changed = parameters, ranks, changed
        count, world = length(parameters), ranks.world
        values = torch.frombuffer(memory, dtype=_DTYPE, count=(world + 1) * count)
        *self._gradients_P, self._sum_P = torch.split(values, count)
        self._part = slice(count * ranks.rank // world, count * (ranks.rank + 1) // world)
        self._read_T = views(parameters, self._sum_P)
        self._there_RT = torch.frombuffer(memory, dtype=torch.bool, offset=values.nbytes).view(
            world, len(parameters)
        )

    @staticmethod
    def bytes_of(parameters: list[nn.Parameter], world: int) -> int:
        """What it takes: the gradients of all ranks, their sum, and which ones there are."""
        return (world + 1) * length(parameters) * _DTYPE.itemsize + world * len(parameters)

    @torch.no_grad()
    def sum(self) -> None:
        """Turn each gradient into the sum over all ranks; one that no rank has stays None."""
        self._there_RT[self._ranks.rank] = torch.tensor(
            [parameter.grad is not None for parameter in self._parameters]
        )
        write_gradient(self._parameters, self._gradients_P[self._ranks.rank])
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
    token = secrets.randbits(62)
    made = _made(_NAME.format(token=token), size_bytes) if ranks.reports else -1
    told = torch.tensor([os.getpid(), made, token])
    ranks.share_first([told])
    process, descriptor, token = told.tolist()
    path = Path(f"/proc/{process}/fd/{descriptor}")
    seen = _seen(path, _NAME.format(token=token), size_bytes)
    (is_missed,) = ranks.largest([float(seen is None)])
    if made >= 0:
        os.close(made)
    return None if is_missed else seen


def _made(name: str, size_bytes: int) -> int:
    """A descriptor of new memory; -1 if the system does not give any."""
    if not hasattr(os, "memfd_create"):
        return -1
    try:
        made = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(made, size_bytes)
    except OSError:
        return -1
    return made


def _seen(path: Path, name: str, size_bytes: int) -> mmap.mmap | None:
    """Another process's memory, if it can be opened and is the one of that name."""
    try:
        if name not in str(path.readlink()):
            return None
        with path.open("r+b") as stream:
            return mmap.mmap(stream.fileno(), size_bytes)
    except OSError:
        return None
