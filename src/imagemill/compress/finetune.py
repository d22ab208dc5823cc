"""Fine-tuning: training goes on from the weights of the step before."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.compress.bench import Bench, open_float, save_float
from imagemill.compress.fitting import fit_on_bench
from imagemill.compress.masks import masked, zeros_of
from imagemill.params import FinetuneParams, GuideParams

if TYPE_CHECKING:
    from imagemill.train.losses import Teacher


def finetune(source: Path, target: Path, step: FinetuneParams, bench: Bench) -> None:
    """Train the net on for `step.epochs`; weights that pruning set to zero stay zero.

    Raises:
        TrainingError: the loss is not finite, or the ledger is not whole.
    """
    model, card = open_float(source, bench)
    with masked(model, zeros_of(model)):
        tuned = fit_on_bench(
            model,
            bench.images("train"),
            bench,
            name="finetune",
            how=step,
            teacher=_base_as_teacher(step.guide, bench) if step.guide else None,
        )
    save_float(target, tuned, card, card.architecture)


def _base_as_teacher(guide: GuideParams, bench: Bench) -> "Teacher":
    from imagemill.train.losses import Teacher
    from imagemill.train.machine import choose_machine

    base, _ = open_float(bench.base, bench)
    machine = choose_machine(bench.params.train)
    base = base.to(machine.device).to(memory_format=machine.memory_format)
    return Teacher(base, guide.temperature, guide.alpha)
