"""SCHEDULES: the learning rate as a share of its peak, a pure function of the step."""

from collections.abc import Callable


def one_cycle(step: int, total: int, warmup: float) -> float:
    """Linear up over `warmup` of all steps, then linear down towards 0.

    Source: Smith and Topin 2018, "Super-Convergence"; ours is the plain triangle.
    """
    done = (step + 0.5) / total
    return done / warmup if done < warmup else (1 - done) / (1 - warmup)


def constant(step: int, total: int, warmup: float) -> float:
    """The peak, always."""
    del step, total, warmup
    return 1.0


SCHEDULES: dict[str, Callable[[int, int, float], float]] = {
    "one_cycle": one_cycle,
    "constant": constant,
}
