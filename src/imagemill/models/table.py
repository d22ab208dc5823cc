"""The table of models and how a row becomes a network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import nn

from imagemill.errors import InputSizeError, UnknownNameError
from imagemill.models.efficientnet_lite import EfficientNetLite
from imagemill.models.fast import FastCifar, FastMnist
from imagemill.models.normalise import Normalise
from imagemill.models.resnet import CifarResNet
from imagemill.models.seed import SeedCifar, SeedMinimal, SeedMnist
from imagemill.records import Architecture


class Model(NamedTuple):
    """A row of MODELS.

    build: (channels, input_size, num_classes, width) -> module from normalised images to logits.
    minimum_size: smallest height and width it can take, pixels.
    """

    build: Callable[[int, int, int, float], nn.Module]
    minimum_size: int


MODELS: dict[str, Model] = {
    "seed_minimal": Model(SeedMinimal, SeedMinimal.MINIMUM_SIZE),
    "seed_mnist": Model(SeedMnist, SeedMnist.MINIMUM_SIZE),
    "seed_cifar": Model(SeedCifar, SeedCifar.MINIMUM_SIZE),
    "fast_mnist": Model(FastMnist, FastMnist.MINIMUM_SIZE),
    "fast_cifar": Model(FastCifar, FastCifar.MINIMUM_SIZE),
    "resnet20": Model(CifarResNet.with_20_layers, CifarResNet.MINIMUM_SIZE),
    "efficientnet_lite0": Model(EfficientNetLite, EfficientNetLite.MINIMUM_SIZE),
}


def build_model(
    architecture: Architecture,
    *,
    input_shape: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> nn.Sequential:
    """A fresh network with its normalisation in front.

    Args:
        architecture: Name in MODELS and {"width": share of the full width}.
        input_shape: Channels, height and width (equal), pixels.
        num_classes: K.
        mean, std: Per-channel statistics of train in 0..1.

    Returns:
        Sequential(normalise, network): float32 [B, C, H, W] in 0..1 -> logits [B, K].

    Raises:
        UnknownNameError: no such model.
        InputSizeError: the images are smaller than the model can take.
    """
    channels, height, width = input_shape
    assert height == width, "images are square after loading"
    model = model_named(architecture.name)
    if height < model.minimum_size:
        raise InputSizeError(
            f"{architecture.name} needs images of at least {model.minimum_size} px, got {height} "
            "px: raise train.input_size (images are resized to it) or choose a smaller model"
        )
    network = model.build(channels, height, num_classes, float(architecture.arguments["width"]))
    return nn.Sequential(Normalise(mean, std), network)


def model_named(name: str) -> Model:
    """The row of MODELS.

    Raises:
        UnknownNameError: no such model.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]
