"""The table of models and how a row becomes a network."""

from collections.abc import Sequence

from torch import nn

from imagemill.errors import InputSizeError, ParamsError, UnknownNameError
from imagemill.models.contract import Arguments, Model, Shape
from imagemill.models.efficientnet_lite import EfficientNetLite
from imagemill.models.ensemble import Ensemble
from imagemill.models.fast import FastCifar, FastMnist
from imagemill.models.normalise import Normalise
from imagemill.models.resnet import CifarResNet
from imagemill.models.seed import SeedCifar, SeedMinimal, SeedMnist
from imagemill.models.torchvision_nets import RESNET18_SMALL, TORCHVISION_NETS
from imagemill.records import Architecture

_MNIST, _CIFAR = Shape(1, 28, 10), Shape(3, 32, 10)


def _cifar_resnet(layers: int, published_parameters: str) -> Model:
    return Model(
        CifarResNet.with_layers(layers),
        CifarResNet.MINIMUM_SIZE,
        _CIFAR,
        "He et al. 2015, Deep Residual Learning for Image Recognition, table 6",
        has_stochastic_depth=True,
        published_parameters=published_parameters,
    )


def _efficientnet_lite(width: float, depth: float, size: int, published_parameters: str) -> Model:
    return Model(
        EfficientNetLite.scaled(width, depth),
        EfficientNetLite.MINIMUM_SIZE,
        Shape(3, size, 1000),
        "Tan and Le 2019, EfficientNet, as tensorflow/tpu's efficientnet/lite has it",
        has_stochastic_depth=True,
        published_parameters=published_parameters,
    )


MODELS: dict[str, Model] = {
    "seed_minimal": Model(
        SeedMinimal,
        SeedMinimal.MINIMUM_SIZE,
        _MNIST,
        "the textbook example of one convolution and one linear layer",
    ),
    "seed_mnist": Model(
        SeedMnist,
        SeedMnist.MINIMUM_SIZE,
        _MNIST,
        "Chollet 2017, Deep Learning with Python, section 5.1",
        published_parameters="93,322",
    ),
    "seed_cifar": Model(
        SeedCifar,
        SeedCifar.MINIMUM_SIZE,
        _CIFAR,
        "LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, as in "
        "PyTorch's CIFAR-10 tutorial",
    ),
    "fast_mnist": Model(FastMnist, FastMnist.MINIMUM_SIZE, _MNIST, "ours"),
    "fast_cifar": Model(
        FastCifar,
        FastCifar.MINIMUM_SIZE,
        _CIFAR,
        "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, at half its width",
    ),
    "resnet20": _cifar_resnet(20, "0.27M"),
    "resnet32": _cifar_resnet(32, "0.46M"),
    "resnet44": _cifar_resnet(44, "0.66M"),
    "resnet56": _cifar_resnet(56, "0.85M"),
    "resnet18_small": RESNET18_SMALL,
    "efficientnet_lite0": _efficientnet_lite(1.0, 1.0, 224, "4.7M"),
    "efficientnet_lite1": _efficientnet_lite(1.0, 1.1, 240, "5.4M"),
    "efficientnet_lite2": _efficientnet_lite(1.1, 1.2, 260, "6.1M"),
    **TORCHVISION_NETS,
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
        architecture: Name in MODELS and arguments as `Arguments` names them; or an ensemble.
        input_shape: Channels, height and width (equal), pixels.
        num_classes: K.
        mean, std: Per-channel statistics of train in 0..1.

    Returns:
        Sequential(normalise, network), or Sequential(ensemble) whose members are such: float32
        [B, C, H, W] in 0..1 -> logits [B, K]; while training `split_outputs` tells
        whether there are auxiliary ones.

    Raises:
        As `check_architecture`.
    """
    if architecture.is_ensemble:
        members = [
            build_model(
                Architecture(**member),
                input_shape=input_shape,
                num_classes=num_classes,
                mean=mean,
                std=std,
            )
            for member in architecture.arguments["members"]
        ]
        return nn.Sequential(Ensemble(members))
    channels, height, width = input_shape
    assert height == width, "images are square after loading"
    check_architecture(architecture, height)
    shape = Shape(channels, height, num_classes)
    network = MODELS[architecture.name].build(shape, Arguments.read(architecture.arguments))
    return nn.Sequential(Normalise(mean, std), network)


def check_architecture(architecture: Architecture, input_size: int) -> None:
    """Refuse what cannot be built.

    Args:
        architecture: Name in MODELS and arguments as `Arguments` names them.
        input_size: Height and width of the images, pixels.

    Raises:
        UnknownNameError: no such model, or no such argument.
        InputSizeError: the model cannot take images of this size.
        ParamsError: the model has no such width, or no residual branches to skip.
    """
    name = architecture.name
    model, arguments = model_named(name), Arguments.read(architecture.arguments)
    _check_size(name, model, input_size)
    if arguments.width != 1 and not model.has_width:
        raise ParamsError(
            f"{name} has one width, got {arguments.width:g}: set it to 1, or choose a model with "
            f"others: {_those_with('has_width')}"
        )
    if arguments.stochastic_depth and not model.has_stochastic_depth:
        raise ParamsError(
            f"{name} cannot skip residual branches, got stochastic_depth "
            f"{arguments.stochastic_depth:g}: set it to 0, or choose a model that can: "
            f"{_those_with('has_stochastic_depth')}"
        )


def check_prunable(name: str) -> None:
    """Refuse to take channels out of a model whose layers cannot be followed.

    Raises:
        UnknownNameError: no such model.
        ParamsError: this one cannot.
    """
    if not model_named(name).is_prunable:
        raise ParamsError(
            f"{name} cannot be pruned: which of its channels belong together is hidden in the way "
            "it computes attention; distil a smaller model or quantize it instead"
        )


def _check_size(name: str, model: Model, input_size: int) -> None:
    if input_size < model.minimum_size:
        raise InputSizeError(
            f"{name} needs images of at least {model.minimum_size} px, got {input_size} "
            "px: raise train.input_size (images are resized to it) or choose a smaller model"
        )
    below = input_size - input_size % model.size_step
    if below != input_size:
        raise InputSizeError(
            f"{name} cuts images into patches of {model.size_step} px, which do not fill "
            f"{input_size} px: set train.input_size to a multiple of {model.size_step}, such as "
            f"{below} or {below + model.size_step}"
        )


def _those_with(field: str) -> str:
    return ", ".join(name for name, model in MODELS.items() if getattr(model, field))


def model_named(name: str) -> Model:
    """The row of MODELS.

    Raises:
        UnknownNameError: no such model.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]
