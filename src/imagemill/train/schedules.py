"""SCHEDULES: the learning rate as a share of its peak, a pure function of the step.

All rise linearly over `warmup` of all steps first.
"""

import math
from collections.abc import Callable

from imagemill.params import TrainParams

_DROP = 0.1  # what a milestone multiplies the rate with


def one_cycle(done: float, train: TrainParams) -> float:
    """Linear down towards 0.

    Source: Smith and Topin 2018, "Super-Convergence"; ours is the plain triangle.
    """
    return (1 - done) / (1 - train.warmup)


def cosine(done: float, train: TrainParams) -> float:
    """Half a cosine wave down towards 0.

    Source: Loshchilov and Hutter 2016, "SGDR"; without restarts.
    """
    return 0.5 * (1 + math.cos(math.pi * (done - train.warmup) / (1 - train.warmup)))


def step(done: float, train: TrainParams) -> float:
    """A tenth from each milestone on.

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", section 3.4.
    """
    return float(_DROP ** sum(done >= milestone for milestone in train.milestones or ()))


def constant(done: float, train: TrainParams) -> float:
    """The peak, always."""
    del done, train
    return 1.0


# (share of all steps that are done, settings) -> share of the peak, once warming up is over
SCHEDULES: dict[str, Callable[[float, TrainParams], float]] = {
    "one_cycle": one_cycle,
    "cosine": cosine,
    "step": step,
    "constant": constant,
}


def rate_share(train: TrainParams, number: int, total: int) -> float:
    """Share of the peak rate at a step.

    Args:
        train: Schedule, warmup and milestones.
        number: The step, from 0.
        total: Steps of the whole run.
    """
    done = (number + 0.5) / total
    if done < train.warmup:
        return done / train.warmup
    return SCHEDULES[train.schedule](done, train)
