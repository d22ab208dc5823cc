"""Quantization-aware training as a step of a chain; `rounding` has what the net feels."""

from pathlib import Path

from imagemill.compress.bench import Bench, open_float, save_float
from imagemill.compress.fitting import fit_on_bench
from imagemill.params import FitParams, QuantizeParams


def learn_rounding(source: Path, target: Path, step: QuantizeParams, bench: Bench) -> None:
    """Train the net in `source` on while its weights and inputs are rounded; write it as float.

    Raises:
        TrainingError: the loss is not finite, or the ledger is not whole.
    """
    from imagemill.compress.rounding import rounded

    assert step.epochs is not None and step.learning_rate is not None, "params ask for both"
    how = FitParams(epochs=step.epochs, learning_rate=step.learning_rate, train=step.train)
    model, card = open_float(source, bench)
    with rounded(model):
        fit_on_bench(
            model,
            bench.images("train"),
            bench,
            name="quantize",
            how=how,
            teacher=None,
        )
    save_float(target, model, card, card.architecture)
