"""Draws inside a network (dropout, skipped blocks): a function of the seed, the step and the rank.

So a resumed training draws what it would have drawn, and no generator has to be kept. On another
number of ranks the draws are other ones: each rank draws for its own part of the batch.
"""

import torch


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's generators for a step.

    Args:
        seed: train.seed.
        step: Of the whole run.
        rank: This process among those that train together.
        device: Where the step is computed.
    """
    # The CPU's generator looks at 32 bits of its seed only, so these must hold all three.
    number = _mixed(_mixed(_mixed(seed) ^ step) ^ rank) >> 32
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(number)


def _mixed(number: int) -> int:
    """64 bits that all depend on all bits of a number: a step of SplitMix64."""
    state = (number + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)
