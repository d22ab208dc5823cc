"""Convolutions in bfloat16: torch's gradients, by other ways where it is slow."""

import copy

import pytest
import torch
from torch import Tensor, nn

from imagemill.models import build_model
from imagemill.records import Architecture
from imagemill.train.machine import Machine
from imagemill.train.quick_gradients import quick_gradients

BFLOAT16 = Machine(torch.device("cpu"), torch.bfloat16, channels_last=True)
FLOAT32 = Machine(torch.device("cpu"), torch.float32, channels_last=True)
CHANNELS = 16


def _depthwise(kernel: int, stride: int, padding: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=CHANNELS, bias=bias)


def _gradients(layer: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.detach().requires_grad_()
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        made = layer(images)
    weights = torch.linspace(-1, 1, made.numel()).view_as(made)
    (made.float() * weights).sum().backward()
    assert images.grad is not None
    return [made.detach(), images.grad, *(parameter.grad for parameter in layer.parameters())]


def _pointwise(*, bias: bool = False, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    return nn.Conv2d(CHANNELS, 24, 1, stride, padding, bias=bias)


def _check(layer: nn.Conv2d, images: Tensor) -> None:
    exact = copy.deepcopy(layer).double()
    inputs = images.double().requires_grad_()
    out = exact(inputs)
    (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    with quick_gradients(layer, BFLOAT16):
        assert "_conv_forward" in vars(layer)
        found = _gradients(layer, images)
    assert exact.bias is not None
    wanted = [out, inputs.grad, exact.weight.grad, exact.bias.grad]
    for one, other in zip(found, wanted, strict=True):
        assert other is not None and one.shape == other.shape
        # Eight bits of mantissa.
        assert (one.double() - other).abs().max() <= 0.02 * other.abs().max()


@pytest.mark.parametrize("side", [9, 12])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [(3, 1, 1), (3, 2, 1), (3, 2, 0), (5, 1, 2), (5, 2, 2), (5, 2, 0), (7, 1, 3), (7, 3, 3)],
)
def test_gradients_are_those_of_torch(kernel: int, stride: int, padding: int, side: int) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, CHANNELS, side, side + 2).to(memory_format=torch.channels_last)
    _check(_depthwise(kernel, stride, padding, bias=True), images)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 3), (3, 1)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 1, 2), (5, 2, 2), (7, 1, 3)]
)
def test_maps_smaller_than_the_filter(
    kernel: int, stride: int, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    images = torch.randn(5, CHANNELS, *size).to(memory_format=torch.channels_last)
    _check(_depthwise(kernel, stride, padding, bias=True), images)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_one_by_one_filters_are_products(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    images = torch.randn(3, CHANNELS, 5, 7).to(memory_format=layout)
    _check(_pointwise(bias=True), images)


@pytest.mark.parametrize(
    ("layer", "machine"),
    [
        (_depthwise(2, 2, 0), BFLOAT16),
        (_pointwise(), FLOAT32),
        (_pointwise(stride=2), BFLOAT16),
        (_pointwise(padding=1), BFLOAT16),
        (nn.Conv2d(CHANNELS, CHANNELS, 1, groups=2), BFLOAT16),
        (_depthwise(5, 2, 2), FLOAT32),
        (nn.Conv2d(CHANNELS, CHANNELS, 5, 2, 2), BFLOAT16),
        (nn.Conv2d(CHANNELS, 2 * CHANNELS, 5, 2, 2, groups=CHANNELS), BFLOAT16),
        (nn.Conv2d(CHANNELS, CHANNELS, 5, 2, "valid", groups=CHANNELS), BFLOAT16),
        (nn.Conv2d(CHANNELS, CHANNELS, (3, 5), 2, 1, groups=CHANNELS), BFLOAT16),
        (nn.Conv2d(CHANNELS, CHANNELS, 5, 2, 2, dilation=2, groups=CHANNELS), BFLOAT16),
    ],
    ids=[
        *("even", "float32 products", "strided", "padded", "grouped"),
        *("float32", "dense", "multiplied", "named", "oblong", "dilated"),
    ],
)
def test_other_layers_stay_as_they_are(layer: nn.Conv2d, machine: Machine) -> None:
    with quick_gradients(layer, machine):
        assert "_conv_forward" not in vars(layer)


def test_layers_have_their_own_forward_again() -> None:
    layer = _depthwise(5, 2, 2)
    with pytest.raises(KeyboardInterrupt), quick_gradients(layer, BFLOAT16):
        assert "_conv_forward" in vars(layer)
        raise KeyboardInterrupt
    assert "_conv_forward" not in vars(layer)


def test_evaluation_within_is_that_without() -> None:
    layer = _depthwise(5, 2, 2)
    images = torch.randn(2, CHANNELS, 8, 8)
    with torch.inference_mode():
        plain = layer(images)
        with quick_gradients(layer, BFLOAT16):
            assert torch.equal(layer(images), plain)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "mobilenet_v3_small", "convnext_tiny"])
def test_a_net_has_the_gradients_it_had(name: str) -> None:
    torch.manual_seed(0)
    architecture = Architecture(name=name, arguments={"width": 1.0})
    mean_std = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    model = build_model(architecture, input_shape=(3, 64, 64), num_classes=10, **mean_std)
    model.to(memory_format=torch.channels_last).eval()  # without drawn branches and dropout
    images = torch.rand(2, 3, 64, 64).to(memory_format=torch.channels_last)
    plain = _gradients(model, images)
    with quick_gradients(model, BFLOAT16):
        assert any("_conv_forward" in vars(module) for module in model.modules())
        quick = _gradients(model, images)
    norm = torch.cat([grad.flatten() for grad in plain[2:]]).norm()
    apart = torch.cat([(a - b).flatten() for a, b in zip(plain[2:], quick[2:], strict=True)]).norm()
    assert apart <= 0.02 * norm
