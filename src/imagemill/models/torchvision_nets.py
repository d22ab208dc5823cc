"""The nets of torchvision, fitted to the channels, size and classes of the data.

torchvision is imported when a net is built: that costs two seconds, and most models do without.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from imagemill.models.contract import Arguments, Model, PublishedWeights, Shape
from imagemill.models.layers import BranchNorm, Head, linear_rule

_Colour = tuple[float, float, float]

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Family(NamedTuple):
    """What nets of one kind have in common.

    source: Where they were published.
    own_dropout: They drop features themselves, by an argument; otherwise in front of the head.
    width: Name of the argument for their width; None: they have one width.
    depth: Lets a share of the images skip residual branches; None: there are none to skip.
    normalisation: Mean and standard deviation that go with its published weights.
    """

    source: str
    own_dropout: bool = False
    width: str | None = None
    depth: Callable[[nn.Module, float], None] | None = None
    normalisation: tuple[_Colour, _Colour] = _IMAGENET


def _skip_branches(network: nn.Module, stochastic_depth: float) -> None:
    """Set the share of nets that have layers for it, which torchvision spreads linearly."""
    from torchvision.ops import StochasticDepth

    layers = [part for part in network.modules() if isinstance(part, StochasticDepth)]
    largest = max(layer.p for layer in layers)
    for layer in layers:
        layer.p *= stochastic_depth / largest


def _skip_blocks(network: nn.Module, stochastic_depth: float) -> None:
    """Let the last norm of each block of a ResNet drop its branch."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    blocks = [part for part in network.modules() if isinstance(part, BasicBlock | Bottleneck)]
    for number, block in enumerate(blocks, 1):
        last = "bn3" if isinstance(block, Bottleneck) else "bn2"
        channels = getattr(block, last).num_features
        skipped = linear_rule(stochastic_depth, number, len(blocks))
        setattr(block, last, BranchNorm(channels, skipped))


ALEXNET = Family(
    "Krizhevsky 2014, One weird trick for parallelizing convolutional neural networks",
    own_dropout=True,
)
VGG = Family(
    "Simonyan and Zisserman 2014, Very Deep Convolutional Networks for Large-Scale Image "
    "Recognition",
    own_dropout=True,
)
INCEPTION = Family(
    "Szegedy et al. 2015, Rethinking the Inception Architecture for Computer Vision",
    own_dropout=True,
    # What torchvision's transform_input, off here, makes of the usual one.
    normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)
RESNET = Family(
    "He et al. 2015, Deep Residual Learning for Image Recognition",
    depth=_skip_blocks,
)
RESNEXT = RESNET._replace(
    source="Xie et al. 2016, Aggregated Residual Transformations for Deep Neural Networks"
)
WIDE_RESNET = RESNET._replace(source="Zagoruyko and Komodakis 2016, Wide Residual Networks")
DENSENET = Family("Huang et al. 2016, Densely Connected Convolutional Networks")
MOBILENET_V2 = Family(
    "Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks",
    own_dropout=True,
    width="width_mult",
)
MOBILENET_V3 = MOBILENET_V2._replace(source="Howard et al. 2019, Searching for MobileNetV3")
EFFICIENTNET = Family(
    "Tan and Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
    own_dropout=True,
    depth=_skip_branches,
)
EFFICIENTNET_V2 = EFFICIENTNET._replace(
    source="Tan and Le 2021, EfficientNetV2: Smaller Models and Faster Training"
)
CONVNEXT = Family("Liu et al. 2022, A ConvNet for the 2020s", depth=_skip_branches)
VIT = Family(
    "Dosovitskiy et al. 2020, An Image is Worth 16x16 Words: Transformers for Image Recognition "
    "at Scale",
    own_dropout=True,
)
SWIN = Family(
    "Liu et al. 2021, Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
    own_dropout=True,
    depth=_skip_branches,
)


def _row(name: str, family: Family, weights: str, minimum_size: int) -> Model:
    mean, std = family.normalisation
    return Model(
        build=partial(_build, name, family),
        minimum_size=minimum_size,
        standard=Shape(3, _INPUT_SIZES.get(name, 224), 1000),
        source=family.source,
        size_step=_SIZE_STEPS.get(name, 1),
        has_width=family.width is not None,
        has_stochastic_depth=family.depth is not None,
        weights=PublishedWeights(weights, mean, std),
    )


def _build(name: str, family: Family, shape: Shape, arguments: Arguments) -> nn.Module:
    chosen: dict[str, Any] = {"num_classes": shape.num_classes}
    if family.own_dropout:
        chosen["dropout"] = arguments.dropout
    if family.width is not None:
        chosen[family.width] = arguments.width
    if family is VIT:
        chosen["image_size"] = shape.input_size
    network = _constructor(name)(**chosen)
    if not family.own_dropout:
        _put_head(network, arguments.dropout)
    if family.depth is not None:
        family.depth(network, arguments.stochastic_depth)
    if shape.channels != 3:
        _put_stem(network, shape.channels)
    return network


def _constructor(name: str) -> Callable[..., nn.Module]:
    if name == "inception_v3":
        from imagemill.models.inception import InceptionV3

        return InceptionV3
    if name == "resnet18_small":
        return _resnet18_small
    import torchvision

    return partial(torchvision.models.get_model, name, weights=None)


def _resnet18_small(**chosen: Any) -> nn.Module:
    """A stem that keeps the size of small images: one 3x3 convolution, nothing pooled."""
    import torchvision

    network: nn.Module = torchvision.models.resnet18(**chosen)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network


def _put_head(network: nn.Module, dropout: float) -> None:
    """Let the last linear layer drop a share of what it reads."""
    name, layer = [item for item in network.named_modules() if isinstance(item[1], nn.Linear)][-1]
    network.set_submodule(name, Head.like(layer, dropout))


def _put_stem(network: nn.Module, channels: int) -> None:
    """Let the first convolution read other channels, from the weights its family draws."""
    convolutions = [item for item in network.named_modules() if isinstance(item[1], nn.Conv2d)]
    name, layer = convolutions[0]
    stem = nn.Conv2d(
        channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        bias=layer.bias is not None,
    )
    stem.weight = nn.Parameter(layer.weight.detach()[:, torch.arange(channels) % 3])
    stem.bias = layer.bias
    network.set_submodule(name, stem)


# Name -> family, torchvision's best weights, smallest input in pixels.
_ROWS: dict[str, tuple[Family, str, int]] = {
    "alexnet": (ALEXNET, "AlexNet_Weights.IMAGENET1K_V1", 63),
    "vgg11": (VGG, "VGG11_Weights.IMAGENET1K_V1", 32),
    "vgg11_bn": (VGG, "VGG11_BN_Weights.IMAGENET1K_V1", 32),
    "vgg16": (VGG, "VGG16_Weights.IMAGENET1K_V1", 32),
    "vgg16_bn": (VGG, "VGG16_BN_Weights.IMAGENET1K_V1", 32),
    "inception_v3": (INCEPTION, "Inception_V3_Weights.IMAGENET1K_V1", 75),
    "resnet18": (RESNET, "ResNet18_Weights.IMAGENET1K_V1", 1),
    "resnet34": (RESNET, "ResNet34_Weights.IMAGENET1K_V1", 1),
    "resnet50": (RESNET, "ResNet50_Weights.IMAGENET1K_V2", 1),
    "resnet101": (RESNET, "ResNet101_Weights.IMAGENET1K_V2", 1),
    "resnext50_32x4d": (RESNEXT, "ResNeXt50_32X4D_Weights.IMAGENET1K_V2", 1),
    "wide_resnet50_2": (WIDE_RESNET, "Wide_ResNet50_2_Weights.IMAGENET1K_V2", 1),
    "densenet121": (DENSENET, "DenseNet121_Weights.IMAGENET1K_V1", 29),
    "mobilenet_v2": (MOBILENET_V2, "MobileNet_V2_Weights.IMAGENET1K_V2", 1),
    "mobilenet_v3_small": (MOBILENET_V3, "MobileNet_V3_Small_Weights.IMAGENET1K_V1", 1),
    "mobilenet_v3_large": (MOBILENET_V3, "MobileNet_V3_Large_Weights.IMAGENET1K_V2", 1),
    "efficientnet_b0": (EFFICIENTNET, "EfficientNet_B0_Weights.IMAGENET1K_V1", 1),
    "efficientnet_v2_s": (EFFICIENTNET_V2, "EfficientNet_V2_S_Weights.IMAGENET1K_V1", 1),
    "convnext_tiny": (CONVNEXT, "ConvNeXt_Tiny_Weights.IMAGENET1K_V1", 32),
    "vit_b_16": (VIT, "ViT_B_16_Weights.IMAGENET1K_V1", 16),
    "vit_b_32": (VIT, "ViT_B_32_Weights.IMAGENET1K_V1", 32),
    "swin_t": (SWIN, "Swin_T_Weights.IMAGENET1K_V1", 4),
}
_INPUT_SIZES = {"inception_v3": 299, "efficientnet_v2_s": 384}  # the others: 224
_SIZE_STEPS = {"vit_b_16": 16, "vit_b_32": 32}  # their patches

TORCHVISION_NETS: dict[str, Model] = {name: _row(name, *row) for name, row in _ROWS.items()}

RESNET18_SMALL = Model(
    build=partial(_build, "resnet18_small", RESNET),
    minimum_size=1,
    standard=Shape(3, 32, 10),
    source=f"{RESNET.source}; its ResNet-18 with the stem of section 4.2",
    has_width=False,
    has_stochastic_depth=True,
)
