"""What policies are made of: draws of a batch, layers that use them up, and records of what was
drawn.

Shapes: B samples, S strengths, U further draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from imagemill.augment.geometric import Floats, Images, Size
from imagemill.augment.operations import OPERATIONS
from imagemill.randomness import U64, uniforms

SPARED = -1  # the choice of an image that a layer leaves alone


class Drawn(NamedTuple):
    """What one operation drew for one image; applied only where the chance said so.

    `chains` is what AugMix mixes: `strengths` are then the shares of the image itself and of each
    chain.
    """

    operation: str
    strengths: list[float]
    positions: list[float]
    chains: tuple[tuple["Drawn", ...], ...] = ()

    def described(self) -> dict[str, Any]:
        """As JSON holds it."""
        told = self._asdict()
        del told["chains"]
        if self.chains:
            told["chains"] = [[link.described() for link in chain] for chain in self.chains]
        return told


@dataclass(frozen=True)
class Draws:
    """Uniform draws of the samples of a batch for one entry of a policy.

    A draw is a pure function of (seed, epoch, key, position of the entry, number of the draw).
    """

    hashes_B: U64
    seed: int
    epoch: int
    position: int

    def __len__(self) -> int:
        return len(self.hashes_B)

    def __call__(self, number: int) -> Floats:
        """The draw with this number for each sample, in [0, 1)."""
        return uniforms(self.hashes_B, self.seed, self.epoch, self.position, number)

    def block(self, first: int, count: int) -> Floats:
        """Draws `first` to `first + count - 1` for each sample, [B, count]."""
        drawn_BD = np.empty((len(self), count))
        for column in range(count):
            drawn_BD[:, column] = self(first + column)
        return drawn_BD

    def chosen(self, probability: float) -> NDArray[np.bool_]:
        """The samples an entry is applied to; takes draw 0."""
        return self(0) < probability

    def alternating(self) -> NDArray[np.bool_]:
        """Half of the samples, and in the next epoch the other half."""
        first_B = Draws(self.hashes_B, self.seed, 0, self.position).chosen(0.5)
        return first_B ^ bool(self.epoch % 2)

    def of(self, chosen_B: NDArray[np.bool_]) -> "Draws":
        """The draws of some of the samples."""
        return Draws(self.hashes_B[chosen_B], self.seed, self.epoch, self.position)


@dataclass(frozen=True)
class Layer:
    """One operation for each image of a batch.

    names: Operations to choose from.
    choice_B: Which of them each image gets, or SPARED.
    strengths_BS, units_BU: As many as the hungriest of them needs; the others use the first ones.
    """

    names: Sequence[str]
    choice_B: NDArray[np.intp]
    strengths_BS: Floats
    units_BU: Floats

    def apply(self, images: Images, outs: Images) -> None:
        """Write each image, changed by its operation, to its place in `outs`."""
        for number in np.unique(self.choice_B).tolist():
            rows_M = np.flatnonzero(self.choice_B == number)
            places = rows_M.tolist()
            if number == SPARED:
                for row in places:
                    outs[row][:] = images[row]
                continue
            operation = OPERATIONS[self.names[number]]
            operation.apply(
                [images[row] for row in places],
                self.strengths_BS[rows_M, : operation.strengths],
                self.units_BU[rows_M, : operation.units],
                [outs[row] for row in places],
            )

    def drawn(self, row: int) -> list[Drawn]:
        """What the layer does to one image: an operation or nothing."""
        if self.choice_B[row] == SPARED:
            return []
        name = self.names[self.choice_B[row]]
        strengths = self.strengths_BS[row, : OPERATIONS[name].strengths].tolist()
        return [Drawn(name, strengths, self.units_BU[row, : OPERATIONS[name].units].tolist())]


class Step(Protocol):
    """An entry of a policy, once it is clear which samples it hits."""

    def apply(self, images: Images, draws: Draws, outs: Images) -> None:
        """Write the changed images to `outs`; those given are left alone."""

    def drawn(self, draws: Draws, size: Size) -> list[list[Drawn]]:
        """What `apply` does to images of this size, a list for each sample."""


class Layered(ABC):
    """A step whose layers act one after the other."""

    @abstractmethod
    def layers(self, draws: Draws, size: Size) -> list[Layer]:
        """The layers for these samples at this size of image."""

    def apply(self, images: Images, draws: Draws, outs: Images) -> None:
        """Write the changed images to `outs`; those given are left alone."""
        *inner, last = self.layers(draws, images[0].shape[:2])
        last.apply(through(inner, images), outs)

    def drawn(self, draws: Draws, size: Size) -> list[list[Drawn]]:
        """What `apply` does to images of this size, a list for each sample."""
        layers = self.layers(draws, size)
        return [[one for layer in layers for one in layer.drawn(row)] for row in range(len(draws))]


def through(layers: Iterable[Layer], images: Images) -> Images:
    """The images after all layers; without any the images themselves."""
    for layer in layers:
        outs = np.empty((len(images), *images[0].shape), np.uint8)
        layer.apply(images, outs)
        images = outs
    return images


@dataclass(frozen=True)
class Single(Layered):
    """One operation with a range."""

    name: str
    low: float
    high: float

    def layers(self, draws: Draws, size: Size) -> list[Layer]:
        """One layer; takes a draw for each strength and each unit."""
        del size
        operation = OPERATIONS[self.name]
        drawn_BD = draws.block(1, operation.strengths + operation.units)
        strengths_BS = self.low + (self.high - self.low) * drawn_BD[:, : operation.strengths]
        choice_B = np.zeros(len(draws), np.intp)
        return [Layer((self.name,), choice_B, strengths_BS, drawn_BD[:, operation.strengths :])]
