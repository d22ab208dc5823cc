"""What a model is asked for and what it answers: the contract of a row of MODELS.

Shapes: B batch, K classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from imagemill.errors import UnknownNameError


class Shape(NamedTuple):
    """What the data asks of a model.

    channels: Of the images, 1 or 3.
    input_size: Height and width, pixels.
    num_classes: K.
    """

    channels: int
    input_size: int
    num_classes: int


class Arguments(NamedTuple):
    """What the user chooses about a model beside its name.

    width: Channels of its layers, relative to its full form.
    dropout: Share of the features set to zero while training, in front of the head or where the
        model's own source drops them.
    stochastic_depth: Share of the images that skip the last residual branch while training; less
        for earlier ones.
    """

    width: float
    dropout: float
    stochastic_depth: float

    @classmethod
    def read(cls, arguments: Mapping[str, Any]) -> "Arguments":
        """From an `Architecture`: the width, and shares dropped that are 0 where it names none.

        Raises:
            UnknownNameError: it names something else.
        """
        for name in arguments:
            if name not in cls._fields:
                raise UnknownNameError("argument of a model", name, cls._fields)
        return cls(
            width=float(arguments["width"]),
            dropout=float(arguments.get("dropout", 0.0)),
            stochastic_depth=float(arguments.get("stochastic_depth", 0.0)),
        )


class PublishedWeights(NamedTuple):
    """Trained weights that torchvision publishes for a model.

    name: Member of an enum of torchvision.models, such as "ResNet50_Weights.IMAGENET1K_V2".
    mean, std: Per channel, of the normalisation they were trained behind; images in 0..1.
    """

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Model(NamedTuple):
    """A row of MODELS.

    build: Module from normalised images to logits [B, K], in training perhaps to `Outputs`.
    minimum_size: Smallest height and width it can be trained with, pixels.
    standard: The input and classes it was published for; its cost is pinned there.
    source: Where it was published.
    size_step: Heights and widths it takes are multiples of this.
    has_width: Takes a width other than 1.
    has_stochastic_depth: Takes a share of images that skip its residual branches.
    published_parameters: As printed by the source at `standard`; None: it states none.
    weights: None: torchvision publishes none.
    """

    build: Callable[[Shape, Arguments], nn.Module]
    minimum_size: int
    standard: Shape
    source: str
    size_step: int = 1
    has_width: bool = True
    has_stochastic_depth: bool = False
    published_parameters: str | None = None
    weights: PublishedWeights | None = None


class Outputs(NamedTuple):
    """What a network with an auxiliary head returns while it trains.

    logits_BK: Of its head, as in evaluation.
    auxiliary_BK: Of a second head half-way, which only training uses.
    auxiliary_weight: Of the second head's loss, relative to the first's.
    """

    logits_BK: Tensor
    auxiliary_BK: Tensor
    auxiliary_weight: float


def split_outputs(outputs: Tensor | Outputs) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """Logits, and what else adds to the loss.

    Args:
        outputs: What a model returned, training or not.

    Returns:
        Logits [B, K], and (weight, auxiliary logits [B, K]) of each auxiliary head: the loss is
        loss(logits) + sum(weight * loss(auxiliary logits)).
    """
    if isinstance(outputs, Tensor):
        return outputs, []
    return outputs.logits_BK, [(outputs.auxiliary_weight, outputs.auxiliary_BK)]
