"""A shortcut without parameters, and the same one written as a convolution.

Shapes: B batch, C channels in, O channels out, H height, W width.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and channels of zeros on both sides: [B, C, ...] -> [B, O, ...].

    Source: He et al. 2015, "Deep Residual Learning for Image Recognition", option A.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.channels_in, self.channels_out, self.stride = channels_in, channels_out, stride
        self.before = (channels_out - channels_in) // 2

    def forward(self, features: Tensor) -> Tensor:
        added = self.channels_out - self.channels_in
        if self.stride == 1 and not added:
            return features
        kept = _thinned(features, self.stride)
        return F.pad(kept, (0, 0, 0, 0, self.before, added - self.before))

    @torch.no_grad()
    def as_convolution(self) -> nn.Conv2d:
        """A 1x1 convolution without bias whose weights, zeros and ones, select the same."""
        convolution = nn.Conv2d(
            self.channels_in, self.channels_out, 1, stride=self.stride, bias=False
        )
        channels = torch.arange(self.channels_in)
        convolution.weight.zero_()
        convolution.weight[self.before + channels, channels] = 1
        return convolution


def _thinned(features: Tensor, stride: int) -> Tensor:
    """Every `stride`-th pixel of [B, C, H, W], with a gradient that lies as the features do.

    A slice's gradient lies as its dimensions are numbered; added to one that lies otherwise it
    costs several times as much.
    """
    if features.is_contiguous(memory_format=torch.channels_last):
        return features.permute(0, 2, 3, 1)[:, ::stride, ::stride].permute(0, 3, 1, 2)
    return features[:, :, ::stride, ::stride]


def write_shortcuts(model: nn.Module) -> dict[str, PaddedShortcut]:
    """Put convolutions in place of the padded shortcuts that change channels or size.

    The net computes the same. What ties the channels on both sides of a shortcut together can now
    be followed, so that both may lose some.

    Args:
        model: Changed in place.

    Returns:
        Name -> what was there.
    """
    found = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, PaddedShortcut)
        and (part.stride, part.channels_in) != (1, part.channels_out)
    }
    for name, shortcut in found.items():
        model.set_submodule(name, shortcut.as_convolution())
    return found


def restore_shortcuts(model: nn.Module, written: Mapping[str, PaddedShortcut]) -> None:
    """Take back those of `write_shortcuts` whose channels are all there: nothing was gained.

    Args:
        model: Changed in place; not trained since.
        written: What `write_shortcuts` returned.
    """
    for name, shortcut in written.items():
        convolution = model.get_submodule(name)
        assert isinstance(convolution, nn.Conv2d)
        if convolution.weight.shape[:2] == (shortcut.channels_out, shortcut.channels_in):
            model.set_submodule(name, shortcut)


def fit_to_shortcuts(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Write as convolutions the shortcuts that have a stored weight.

    Args:
        model: A freshly built net.
        shapes: State-dict name -> shape.
    """
    for name, part in list(model.named_modules()):
        if isinstance(part, PaddedShortcut) and f"{name}.weight" in shapes:
            model.set_submodule(name, part.as_convolution())
