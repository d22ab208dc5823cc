"""Facts about gradients that are summed through memory all ranks see."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_groups import together
from torch import Tensor, nn

from imagemill.train.ranks import Ranks
from imagemill.train.strategies.shared import SharedSum, shared_memory

SHAPES = ((3, 2, 2, 2), (5,), (2, 3), (1,))
NOBODY, ONLY_FIRST = 1, 3  # of SHAPES: whose gradient no rank has, and only rank 0


def parameters() -> list[nn.Parameter]:
    """The first lies as `channels_last` has it."""
    made = [torch.zeros(shape) for shape in SHAPES]
    made[0] = made[0].to(memory_format=torch.channels_last)
    return [nn.Parameter(tensor) for tensor in made]


def gradient(rank: int, step: int, number: int) -> Tensor:
    """What a rank computed in a step for a parameter."""
    generator = torch.Generator().manual_seed(100 * rank + 10 * step + number)
    return torch.randn(SHAPES[number], generator=generator)


def summed(ranks: Ranks, steps: int, changed: bool) -> list[list[Tensor | None]]:
    """The gradients a rank has after each step."""
    learned = parameters()
    memory = shared_memory(SharedSum.bytes_of(learned, ranks.world), ranks)
    assert memory is not None
    exchange = SharedSum(memory, learned, ranks, changed=changed)
    found = []
    for step in range(steps):
        for number, parameter in enumerate(learned):
            lacks = number == NOBODY or (number == ONLY_FIRST and ranks.rank > 0)
            parameter.grad = None if lacks else gradient(ranks.rank, step, number)
        exchange.sum()
        found.append([None if p.grad is None else p.grad.clone() for p in learned])
        if changed:
            ranks.meet()
            for parameter in learned:
                if parameter.grad is not None:
                    parameter.grad.mul_(ranks.rank)
            ranks.meet()
            for parameter, before in zip(learned, found[-1], strict=True):
                if parameter.grad is not None and before is not None:
                    assert torch.equal(parameter.grad, before * ranks.rank)
    return found


def seen_under_a_wrong_name(ranks: Ranks) -> Any:
    """What ranks see if rank 0 tells them of a file that is not the memory it made."""
    if ranks.reports:
        own = os.memfd_create
        os.memfd_create = lambda name, flags: own("another", flags)
    return shared_memory(64, ranks)


@pytest.mark.parametrize("changed", [False, True])
def test_every_rank_has_the_sum_of_all(changed: bool, tmp_path: Path) -> None:
    """Step after step, to the bit on all of three ranks; what one lacks counts as zero, and one
    that changes its gradients changes nobody else's."""
    first, *others = together(3, tmp_path, summed, 3, changed)
    for step, found in enumerate(first):
        for number, value in enumerate(found):
            if number == NOBODY:
                assert value is None
                continue
            ranks = range(1) if number == ONLY_FIRST else range(3)
            expected = sum(gradient(rank, step, number) for rank in ranks)
            assert value is not None and torch.equal(value, expected)
            assert all(torch.equal(other[step][number], value) for other in others)
        assert all(other[step][NOBODY] is None for other in others)


def test_memory_of_another_name_is_nobodys(tmp_path: Path) -> None:
    """As on a machine where that process and descriptor are something else."""
    assert together(2, tmp_path, seen_under_a_wrong_name) == [None, None]
