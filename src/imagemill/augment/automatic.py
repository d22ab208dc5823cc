"""AUTOMATIC: published policies that choose among operations by themselves.

Shapes: B samples. A level is the share, 0..1, of a space's greatest change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Images, Pixels, Size
from imagemill.augment.layers import SPARED, Drawn, Draws, Layer, Layered, through

_LEVELS = 30  # magnitudes go from 0 to 30
_AUGMIX_LEVELS = 10

# (level_B, sign_B, size) -> first strength, second strength.
_Strengths = Callable[[Floats, Floats, Size], tuple[Floats | float, Floats | float]]
# Name shown -> operation and its strengths; an operation may stand there twice, across and along.
_Space = Mapping[str, tuple[str, _Strengths]]


def _space(
    *, slant: float, turn: float, shift: Callable[[int], float], bits: tuple[int, int]
) -> dict[str, tuple[str, _Strengths]]:
    """The operations that all three policies know.

    Args:
        slant: Greatest shear, as a tangent.
        turn: Greatest rotation, degrees.
        shift: Side in pixels -> greatest translation as its share.
        bits: How many bits posterize keeps at first, and how many of them it drops at most.
    """
    return {
        "shear across": (
            "shear",
            lambda level, sign, _: (sign * np.degrees(np.arctan(slant * level)), 0.0),
        ),
        "shear along": (
            "shear",
            lambda level, sign, _: (0.0, sign * np.degrees(np.arctan(slant * level))),
        ),
        "translate down": (
            "translate",
            lambda level, sign, size: (sign * level * shift(size[0]), 0.0),
        ),
        "translate right": (
            "translate",
            lambda level, sign, size: (0.0, sign * level * shift(size[1])),
        ),
        "rotate": ("rotate", lambda level, sign, _: (sign * turn * level, 0.0)),
        "posterize": (
            "posterize",
            lambda level, _, __: (np.maximum(bits[0] - np.rint(bits[1] * level), 1), 0.0),
        ),
        "solarize": ("solarize", lambda level, _, __: (255 * (1 - level), 0.0)),
        "autocontrast": ("autocontrast", lambda *_: (0.0, 0.0)),
        "equalize": ("equalize", lambda *_: (0.0, 0.0)),
    }


def _enhancements(most: float) -> dict[str, tuple[str, _Strengths]]:
    """Colour operations whose factor lies at most this far from 1."""

    def strengths(level: Floats, sign: Floats, _: Size) -> tuple[Floats, float]:
        return 1 + sign * most * level, 0.0

    names = ("brightness", "contrast", "saturation", "sharpness")
    return {name: (name, strengths) for name in names}


TRIVIAL_WIDE: _Space = {
    **_space(slant=0.99, turn=135, shift=lambda side: min(32 / side, 1), bits=(8, 6)),
    **_enhancements(0.99),
}
RAND: _Space = {
    **_space(slant=0.3, turn=30, shift=lambda _: 150 / 331, bits=(8, 4)),
    **_enhancements(0.9),
}
# Without the enhancements: models are tested against those changes.
AUGMIX: _Space = _space(slant=0.3, turn=30, shift=lambda _: 1 / 3, bits=(4, 4))


@dataclass(frozen=True)
class TrivialAugment(Layered):
    """One operation at a level drawn from 31, or none, all equally likely.

    Source: Müller and Hutter 2021, "TrivialAugment", the wide space. Shears lean about the centre,
    not about the corner, and pictures are mirrored at their edges, not filled.
    """

    def layers(self, draws: Draws, size: Size) -> list[Layer]:
        """One layer; takes draws 1 to 3."""
        level_B = np.floor(draws(3) * (_LEVELS + 1)) / _LEVELS
        return [_layer(TRIVIAL_WIDE, draws, 1, level_B, size, sparing=True)]


@dataclass(frozen=True)
class RandAugment(Layered):
    """`count` operations, or none in the place of one, all at the same level.

    count: Operations an image gets.
    magnitude: The level, 0 to 30.

    Source: Cubuk et al. 2020, "RandAugment", with torchvision's space and 31 levels. Differs as
    `TrivialAugment` does.
    """

    count: int
    magnitude: int

    def layers(self, draws: Draws, size: Size) -> list[Layer]:
        """A layer an operation; takes two draws each."""
        level_B = np.full(len(draws), self.magnitude / _LEVELS)
        return [
            _layer(RAND, draws, 1 + 2 * number, level_B, size, sparing=True)
            for number in range(self.count)
        ]


@dataclass(frozen=True)
class AugMix:
    """Several chains of operations, mixed with one another and with the image itself.

    width: Number of chains.
    depth: Operations in a chain at most; each length is equally likely.
    severity: Greatest level, 1 to 10.
    alpha: Of the Dirichlet distribution that weighs the chains, and of the Beta distribution that
        weighs them against the image.

    Source: Hendrycks et al. 2020, "AugMix", with levels as in its reference code. Its consistency
    loss is not part of this. Differs as `TrivialAugment` does.
    """

    width: int
    depth: int
    severity: int
    alpha: float

    def apply(self, images: Images, draws: Draws, outs: Images) -> None:
        """Write the changed images to `outs`; those given are left alone."""
        chains = [through(layers, images) for layers in self._chains(draws, images[0].shape[:2])]
        together = zip(images, *chains, strict=True)
        for row, shares, out in zip(together, self._shares(draws), outs, strict=True):
            out[:] = blended(row, shares)

    def drawn(self, draws: Draws, size: Size) -> list[list[Drawn]]:
        """What `apply` does to images of this size, a list for each sample."""
        shares_BS = self._shares(draws)
        chains = self._chains(draws, size)
        found = []
        for row in range(len(draws)):
            links = tuple(
                tuple(one for layer in layers for one in layer.drawn(row)) for layers in chains
            )
            found.append([Drawn("augmix", shares_BS[row].tolist(), [], links)])
        return found

    def _shares(self, draws: Draws) -> Floats:
        """Shares of the image itself and of each chain, [B, 1 + width]; takes 1 to 1 + width."""
        # scipy takes a tenth of a second to import, and few policies need it.
        from scipy.special import betaincinv, gammaincinv

        own_B1 = betaincinv(self.alpha, self.alpha, draws.block(1, 1))
        # Above zero, so that the weights of a sample never vanish all together.
        weights_BW = np.maximum(gammaincinv(self.alpha, draws.block(2, self.width)), 1e-9)
        weights_BW *= (1 - own_B1) / weights_BW.sum(1, keepdims=True)
        return np.hstack([own_B1, weights_BW])

    def _chains(self, draws: Draws, size: Size) -> list[list[Layer]]:
        """The layers of each chain; takes three draws a layer and one a chain."""
        chains = []
        number = 2 + self.width
        for _ in range(self.width):
            lengths_B = 1 + np.floor(draws(number) * self.depth)
            layers = []
            for place in range(self.depth):
                first = number + 1 + 3 * place
                level_B = 0.1 + (self.severity - 0.1) * draws(first + 2)
                layer = _layer(AUGMIX, draws, first, level_B / _AUGMIX_LEVELS, size)
                layer.choice_B[place >= lengths_B] = SPARED
                layers.append(layer)
            chains.append(layers)
            number += 1 + 3 * self.depth
        return chains


def blended(images: Sequence[Pixels], shares: Sequence[float]) -> Pixels:
    """The weighted sum of images of one shape, rounded."""
    total_HWC = np.zeros(images[0].shape, np.float32)
    for image_HWC, share in zip(images, shares, strict=True):
        total_HWC += np.float32(share) * image_HWC
    return np.clip(np.rint(total_HWC), 0, 255).astype(np.uint8)


def _layer(
    space: _Space,
    draws: Draws,
    first: int,
    level_B: Floats,
    size: Size,
    *,
    sparing: bool = False,
) -> Layer:
    """A layer that chooses from a space; takes draws `first` and `first + 1`.

    Args:
        sparing: Whether to leave an image alone is among the choices.
    """
    choice_B = np.floor(draws(first) * (len(space) + sparing)).astype(np.intp)
    sign_B = np.where(draws(first + 1) < 0.5, -1.0, 1.0)
    strengths_BS = np.zeros((len(draws), 2))
    for number, (_, strengths) in enumerate(space.values()):
        rows_B: NDArray[np.bool_] = choice_B == number
        found = strengths(level_B[rows_B], sign_B[rows_B], size)
        strengths_BS[rows_B, 0], strengths_BS[rows_B, 1] = found
    choice_B[choice_B == len(space)] = SPARED
    names = [name for name, _ in space.values()]
    return Layer(names, choice_B, strengths_BS, np.empty((len(draws), 0)))
