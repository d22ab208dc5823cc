"""Small trainings by every strategy, and what they end with."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from imagemill.loading import open_split
from imagemill.models import build_model
from imagemill.params import Params, parse_params, read_yaml
from imagemill.records import Architecture
from imagemill.train.judge import top1
from imagemill.train.loop import fit
from imagemill.train.machine import choose_machine
from imagemill.train.progress import Progress
from imagemill.train.ranks import ALONE, Ranks

Run = dict[str, Any]  # arguments of `run`

SHIPPED = Path(__file__).resolve().parent.parent / "params.yaml"
SHAPE = (1, 12, 12)
STRATEGIES = ("ddp", "fsdp", "parameter_server")
# 60 samples in batches of 29: the last has two, so that of four ranks two have none.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    # Their last batch has nine: over two values a norm would divide by next to nothing.
    "norms": {"model": "fast_mnist", "batch_size": 17, "synchronise_norms": True},
    "blocks": {
        "model": "fast_cifar",
        "batch_size": 17,
        "synchronise_norms": True,
        "learning_rate": 0.005,
    },
    "shaped": {
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "accumulate": 3,
        "clip_norm": 0.1,
        "l1": 1e-4,
        "ema": {"decay": 0.9, "every": 2},
        "selection": {"keep": 1, "of": 3, "start": 0.2, "end": 0.8},
    },
    "muon": {"optimizer": "muon", "learning_rate": 0.05},
}


class Ended(NamedTuple):
    """What a training ended with, on one rank."""

    weights: dict[str, Tensor]
    losses: list[float]  # of each epoch, over all ranks
    top1s: list[float]
    accounts: list[dict[str, Any]]
    measured: list[dict[str, float | None]]
    resumed_at: int


def settings(strategy: str, case: str = "plain", **train: Any) -> Params:
    """The params we ship, with a tiny training."""
    document = read_yaml(SHIPPED)
    document["augment"]["online"] = []
    document["train"] |= {
        "model": "seed_minimal",
        "input_size": 12,
        "epochs": 4,
        "batch_size": 29,
        "learning_rate": 0.1,
        "precision": "float32",
        "strategy": strategy,
        **CASES[case],
        **train,
    }
    return parse_params(document, where="test")


def run(
    ranks: Ranks | None,
    *,
    root: Path,
    strategy: str,
    case: str = "plain",
    checkpoints: Path | None = None,
    until: int | None = None,
    beat: Callable[[int], None] = lambda _: None,
    **train: Any,
) -> Ended:
    """Train on the project's shards.

    Args:
        ranks: This process among those that train together; None: alone.
        root: The project.
        strategy, case, train: As in `settings`.
        checkpoints: Where to save and to resume.
        beat: Called after each step.
        until: End of the epoch to stop at as if killed; checkpoints must be asked for.
    """
    params = settings(strategy, case, **train)
    images, val = (
        open_split(root, split, input_shape=SHAPE, loading=params.loading)
        for split in ("train", "val")
    )
    torch.manual_seed(0)
    architecture = Architecture(name=params.train.model, arguments={"width": 0.5})
    model = build_model(architecture, input_shape=SHAPE, num_classes=3, mean=[0.5], std=[0.3])
    told: list[Progress] = []
    machine = choose_machine(params.train)

    def judge(judged: torch.nn.Module) -> float:
        return top1(judged, val, machine, ranks or ALONE)

    try:
        result = fit(
            model,
            images,
            train=params.train,
            augment=params.augment,
            epochs=params.train.epochs,
            learning_rate=params.train.learning_rate,
            teacher=None,
            report=told.append,
            judge=judge if until is None else _killed_at(until, judge),
            ranks=ranks,
            checkpoints=checkpoints,
            beat=beat,
        )
    except KilledError:
        return Ended({}, [], [], [], [], 0)
    ends = [progress for progress in told if progress.ends_epoch]
    return Ended(
        {name: value.detach().clone() for name, value in model.state_dict().items()},
        [progress.epoch_loss or 0.0 for progress in ends],
        [progress.val_top1 or 0.0 for progress in ends],
        [account._asdict() for account in result.ledger],
        [progress.measured for progress in told],
        result.resumed_at,
    )


def run_each(ranks: Ranks, runs: Sequence[Run]) -> list[Ended]:
    """Several trainings, one after another, by the same processes."""
    return [run(ranks, **each) for each in runs]


def run_each_apart(ranks: Ranks, runs: Sequence[Run]) -> list[Ended]:
    """The same under a system that has no memory without a name for several processes."""
    if hasattr(os, "memfd_create"):
        del os.memfd_create  # of this process
    return run_each(ranks, runs)


class KilledError(Exception):
    """Stands for the end of all processes in the middle of training."""


def _killed_at(epoch: int, judge: Any) -> Any:
    judged = []

    def counting(model: torch.nn.Module) -> float:
        judged.append(judge(model))
        if len(judged) == epoch:
            raise KilledError
        return judged[-1]

    return counting
