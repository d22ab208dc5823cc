"""Train a net on the workbench: what fine-tuning and distillation have in common."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from imagemill.compress.bench import Bench
from imagemill.loading import SplitImages
from imagemill.params import FitParams

if TYPE_CHECKING:
    from torch import nn

    from imagemill.train.losses import Teacher
    from imagemill.train.progress import Progress


def fit_on_bench(
    model: "nn.Module",
    images: SplitImages,
    bench: Bench,
    *,
    name: str,
    how: FitParams,
    teacher: "Teacher | None",
    after_epoch: Callable[[int], None] = lambda _: None,
) -> "nn.Module":
    """Train as the base was trained, but for what the step says.

    Args:
        model: Changed in place.
        images: The train split.
        bench: The workbench.
        name: Of the method, for the log.
        how: The step, or the part of it that trains.
        teacher: Whose outputs it learns beside the labels, if any.
        after_epoch: Called with the number of epochs that are over.

    Returns:
        The model: on the CPU, float32, in evaluation mode.

    Raises:
        TrainingError: the loss is not finite, or the ledger is not whole.
    """
    import torch

    from imagemill.train.loop import fit

    def report(progress: "Progress") -> None:
        bench.progress(progress.step / progress.total_steps, name)
        if progress.ends_epoch:
            after_epoch(progress.epoch)
            bench.log(
                f"{name}: epoch {progress.epoch} of {how.epochs}, loss {progress.loss:.3f}, "
                f"train accuracy {progress.accuracy:.2%}, {progress.images_per_second:,.0f} "
                f"images/s, {progress.seconds_left:.0f} s left"
            )

    fit(
        model,
        images,
        train=bench.params.train.changed(how.train),
        augment=bench.params.augment,
        epochs=how.epochs,
        learning_rate=how.learning_rate,
        teacher=teacher,
        report=report,
    )
    return model.cpu().float().to(memory_format=torch.contiguous_format).eval()
