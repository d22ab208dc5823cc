"""INITIALISATIONS: what weights are before training."""

from collections.abc import Callable

from torch import nn


def he(model: nn.Module) -> None:
    """Normal with variance 2 / fan-in: keeps the scale of ReLU nets.

    Source: He et al. 2015, "Delving Deep into Rectifiers".
    """
    for layer in _learned_layers(model):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def xavier(model: nn.Module) -> None:
    """Uniform with variance 2 / (fan-in + fan-out).

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep nets".
    """
    for layer in _learned_layers(model):
        nn.init.xavier_uniform_(layer.weight)


def default(model: nn.Module) -> None:
    """torch's own (Kaiming uniform with a = sqrt 5), which the layers have drawn already."""


INITIALISATIONS: dict[str, Callable[[nn.Module], None]] = {
    "he": he,
    "xavier": xavier,
    "default": default,
}


def _learned_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    layers = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for layer in layers:
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return [layer for layer in layers if layer.weight.requires_grad]
