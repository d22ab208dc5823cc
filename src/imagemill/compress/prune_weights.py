"""Unstructured pruning: the smallest weights become zero, in one shot or while training."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.compress.bench import Bench, open_float, save_float
from imagemill.compress.fitting import fit_on_bench
from imagemill.compress.masks import least_weights, masked, weighted_layers
from imagemill.params import PruneParams

if TYPE_CHECKING:
    from torch import nn


def prune_weights(source: Path, target: Path, step: PruneParams, bench: Bench) -> None:
    """Set the share `step.ratio` of all weights to zero.

    The net keeps its shape: dense arithmetic gains nothing, and the verdict says so.

    Raises:
        TrainingError: gradual, and the loss is not finite or the ledger is not whole.

    Source:
        Zhu and Gupta 2017, "To prune, or not to prune", for gradual: the share rises at the start
        of each epoch by their cubic law, and is reached when the last one begins.
    """
    model, card = open_float(source, bench)
    gradual = step.gradual
    if gradual is None:
        with masked(model, least_weights(model, step.ratio)):
            pass
    else:
        shares = rising_shares(step.ratio, gradual.epochs)
        with masked(model, least_weights(model, shares[0])) as masks:

            def rise(epoch: int) -> None:
                if epoch < gradual.epochs:
                    for name, mask in least_weights(model, shares[epoch]).items():
                        masks[name].mask.copy_(mask)

            fit_on_bench(
                model,
                bench.images("train"),
                bench,
                name="prune",
                how=gradual,
                teacher=None,
                after_epoch=rise,
            )
    zeros, total = count_zeros(model)
    bench.log(f"prune: {zeros:,} of {total:,} weights are zero ({zeros / total:.1%})")
    save_float(target, model, card, card.architecture)


def rising_shares(ratio: float, epochs: int) -> list[float]:
    """Share of zeros in each epoch; the last is `ratio`."""
    return [ratio * (1 - (1 - epoch / epochs) ** 3) for epoch in range(1, epochs + 1)]


def count_zeros(model: "nn.Module") -> tuple[int, int]:
    """Weights of convolutions and linear layers that are zero, and all of them."""
    weights = [layer.weight for layer in weighted_layers(model).values()]
    return sum(int((weight == 0).sum()) for weight in weights), sum(w.numel() for w in weights)
