"""INITIALISATIONS: what weights are before training.

They draw what convolutions and linear layers multiply with and set their biases to zero. Norms,
scales of branches, class tokens and position embeddings stay as the model made them.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn


def he(model: nn.Module) -> None:
    """Normal with variance 2 / fan-in: keeps the scale of ReLU nets.

    Source: He et al. 2015, "Delving Deep into Rectifiers".
    """
    for weight in _learned_weights(model):
        nn.init.kaiming_normal_(weight, nonlinearity="relu")


def xavier(model: nn.Module) -> None:
    """Uniform with variance 2 / (fan-in + fan-out).

    Source: Glorot and Bengio 2010, "Understanding the difficulty of training deep nets".
    """
    for weight in _learned_weights(model):
        nn.init.xavier_uniform_(weight)


def default(model: nn.Module) -> None:
    """What the model has drawn already: torch's own (Kaiming uniform with a = sqrt 5) for our
    nets, what torchvision chose for each of its families.
    """


INITIALISATIONS: dict[str, Callable[[nn.Module], None]] = {
    "he": he,
    "xavier": xavier,
    "default": default,
}


def _learned_weights(model: nn.Module) -> Iterator[Tensor]:
    """Weights of all layers that learn, one matrix or stack of filters at a time."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            _zero(part.bias)
            if part.weight.requires_grad:
                yield part.weight
        elif isinstance(part, nn.MultiheadAttention):
            # One tensor that holds three square layers: queries, keys and values.
            _zero(part.in_proj_bias)
            assert isinstance(part.in_proj_weight, Tensor), "queries, keys and values as wide"
            yield from part.in_proj_weight.chunk(3)


def _zero(bias: Tensor | None) -> None:
    if bias is not None:
        nn.init.zeros_(bias)
