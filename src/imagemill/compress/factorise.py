"""Low-rank factorisation: each wide layer becomes two thin ones by its singular vectors."""

from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.compress.bench import Bench, open_float, save_float
from imagemill.errors import ParamsError
from imagemill.params import FactoriseParams

if TYPE_CHECKING:
    from torch import nn

# Two layers have the cost of one more call: below so many channels they run no faster.
_FEWEST = 16


def factorise(source: Path, target: Path, step: FactoriseParams, bench: Bench) -> None:
    """Split convolutions and linear layers so that the share `step.ratio` of their weights stays.

    Raises:
        ParamsError: the ratio leaves no layer a rank.
    """
    from imagemill.models import count_parameters

    model, card = open_float(source, bench)
    before = count_parameters(model)
    layers = split_layers(model, ratio=step.ratio)
    if not layers:
        raise ParamsError(
            f"factorise.ratio {step.ratio:g} splits no layer of {card.architecture.name}: raise it"
        )
    after = count_parameters(model)
    bench.log(
        f"factorise: {layers} layers split, {before:,} -> {after:,} parameters "
        f"({after / before:.2f} x)"
    )
    save_float(target, model, card, card.architecture)


def split_layers(model: "nn.Module", *, ratio: float) -> int:
    """Split the layers of a net in place.

    Plain layers with 16 or more channels on both sides are split; groups of filters, the head and
    layers that do not learn are left alone.

    Args:
        model: In evaluation mode.
        ratio: Weights of the two together, as a share of the layer's, in (0, 1).

    Returns:
        How many were split.
    """
    from torch import nn

    from imagemill.models.low_rank import LowRank, replace
    from imagemill.models.parts import head_of

    split, head = 0, head_of(model)
    for name, layer in list(model.named_modules()):
        if type(layer) not in (nn.Conv2d, nn.Linear) or name == head:
            continue
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        outputs, inputs = layer.weight.shape[:2]
        filters = layer.weight[0].numel()
        rank = int(ratio * outputs * filters / (outputs + filters))
        is_plain = not isinstance(layer, nn.Conv2d) or layer.groups == 1
        if not is_plain or not layer.weight.requires_grad or min(outputs, inputs) < _FEWEST:
            continue
        if 1 <= rank < min(outputs, filters):
            replace(model, name, LowRank.nearest(layer, rank))
            split += 1
    return split
