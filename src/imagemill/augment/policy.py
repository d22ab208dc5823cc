"""A policy: entries in order, each with a chance, drawn for each sample."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imagemill.augment.automatic import AugMix, RandAugment, TrivialAugment
from imagemill.augment.crop import RandomResizedCrop
from imagemill.augment.geometric import Pixels, Size
from imagemill.augment.layers import Drawn, Draws, Single, Step
from imagemill.augment.mixing import MIXINGS, Entry, Mixing
from imagemill.augment.operations import OPERATIONS
from imagemill.errors import ParamsError, UnknownNameError
from imagemill.params import OperationParams
from imagemill.randomness import U64

CROP = "random_resized_crop"
AUTOMATIC = {"trivial_augment": TrivialAugment, "rand_augment": RandAugment, "augmix": AugMix}
# What an entry needs beside its probability, where that is not a range or nothing.
_KNOBS = {
    CROP: ("range", "ratio"),
    "rand_augment": ("count", "magnitude"),
    "augmix": ("width", "depth", "severity", "alpha"),
    "mixup": ("alpha",),
    "cutmix": ("alpha",),
}
_ALL_KNOBS = ("range", "ratio", "count", "magnitude", "width", "depth", "severity", "alpha")


@dataclass(frozen=True)
class _Entry:
    step: Step
    probability: float
    position: int  # in the list of params.yaml: part of what a draw is for
    alternates: bool = False

    def chosen(self, draws: Draws) -> NDArray[np.bool_]:
        """The samples it is applied to."""
        return draws.alternating() if self.alternates else draws.chosen(self.probability)


class Policy:
    """Applies its entries to batches; what happens to a sample depends on nothing but itself.

    crop: The window the loader decodes, where the policy begins with one; `apply` leaves it out.
    mixing: What is done with a sample and its neighbour after `apply`, if anything.
    """

    def __init__(
        self,
        entries: Sequence[_Entry],
        seed: int,
        *,
        crop: RandomResizedCrop | None = None,
        mixing: Mixing | None = None,
    ) -> None:
        self._entries = entries
        self._seed = seed
        self.crop = crop
        self.mixing = mixing

    def apply(self, images_BHWC: Pixels, hashes_B: U64, *, epoch: int) -> Pixels:
        """The images after all entries; those given are left alone.

        Args:
            images_BHWC: uint8, one size.
            hashes_B: `randomness.key_hashes` of the samples.
            epoch: Epoch (online) or number of the copy (offline): another one, other draws.

        Returns:
            uint8 [B, H, W, C]: the very images given where no entry hits any of them.
        """
        for entry in self._entries:
            draws = Draws(hashes_B, self._seed, epoch, entry.position)
            chosen_B = entry.chosen(draws)
            if not chosen_B.any():
                continue
            changed_BHWC = np.empty_like(images_BHWC)
            hit = chosen_B.nonzero()[0].tolist()
            entry.step.apply(
                [images_BHWC[row] for row in hit],
                draws.of(chosen_B),
                [changed_BHWC[row] for row in hit],
            )
            for row in (~chosen_B).nonzero()[0].tolist():
                changed_BHWC[row] = images_BHWC[row]
            images_BHWC = changed_BHWC
        return images_BHWC

    def drawn(self, hashes_B: U64, *, epoch: int, size: Size) -> list[list[Drawn]]:
        """What `apply` does to each sample: the operations that hit it, with their values.

        Args:
            hashes_B: `randomness.key_hashes` of the samples.
            epoch: As in `apply`.
            size: Height and width of their images.
        """
        records: list[list[Drawn]] = [[] for _ in hashes_B]
        for entry in self._entries:
            draws = Draws(hashes_B, self._seed, epoch, entry.position)
            chosen_B = entry.chosen(draws)
            for row, found in zip(
                chosen_B.nonzero()[0], entry.step.drawn(draws.of(chosen_B), size), strict=True
            ):
                records[row] += found
        return records


def compile_policy(operations: Sequence[OperationParams], *, seed: int, online: bool) -> Policy:
    """Check a policy against the tables.

    Args:
        operations: `augment.online` or `augment.offline`.
        seed: `augment.seed`.
        online: Whether it is applied to batches in training: only there images can be mixed, and
            windows cut out by the loader.

    Raises:
        UnknownNameError: no such operation.
        ParamsError: an entry lacks a knob or has one too many, a range is outside the operation's
            limits, or an entry stands where it cannot stand.
    """
    entries: list[_Entry] = []
    crop = None
    mixings: list[Entry] = []
    for position, params in enumerate(operations):
        _check_knobs(params)
        _check_place(params, operations[:position], online=online)
        if params.operation == CROP:
            assert params.range is not None and params.ratio is not None
            crop = RandomResizedCrop(params.range, params.ratio, seed)
        elif params.operation in MIXINGS:
            assert params.alpha is not None
            mix = MIXINGS[params.operation]
            mixings.append(Entry(mix, params.probability, params.alpha, position))
        else:
            alternates = bool(params.alternate)
            entries.append(_Entry(_step(params), params.probability, position, alternates))
    mixing = Mixing(mixings, seed) if mixings else None
    return Policy(entries, seed, crop=crop, mixing=mixing)


def _step(params: OperationParams) -> Step:
    knobs = {name: getattr(params, name) for name in _knobs(params.operation)}
    if params.operation in AUTOMATIC:
        made: Step = AUTOMATIC[params.operation](**knobs)
        return made
    low, high = params.range or (0.0, 0.0)
    return Single(params.operation, low, high)


def _knobs(name: str) -> tuple[str, ...]:
    if name in OPERATIONS:
        return ("range",) if OPERATIONS[name].strengths else ()
    return _KNOBS.get(name, ())


def _check_knobs(params: OperationParams) -> None:
    name = params.operation
    known = (*OPERATIONS, *AUTOMATIC, *MIXINGS, CROP)
    if name not in known:
        raise UnknownNameError("augmentation", name, known)
    given = {knob for knob in _ALL_KNOBS if getattr(params, knob) is not None}
    needed = _knobs(name)
    if given != set(needed):
        told = ", ".join(needed) or "nothing"
        got = ", ".join(sorted(given)) or "nothing"
        raise ParamsError(f"augmentation {name!r} needs {told} beside its probability, got {got}")
    least, most, unit = _limits(name)
    if params.range and not least <= params.range[0] <= params.range[1] <= most:
        raise ParamsError(
            f"augmentation {name!r}: range must lie in [{least:g}, {most:g}] ({unit}), "
            f"got {list(params.range)}"
        )


def _limits(name: str) -> tuple[float, float, str]:
    if name == CROP:
        return 0.001, 1, "fraction of the area"
    if name in OPERATIONS:
        return *OPERATIONS[name].limits, OPERATIONS[name].unit
    return 0, 0, ""


def _check_place(
    params: OperationParams, before: Sequence[OperationParams], *, online: bool
) -> None:
    """Windows come first, mixing last, and both only where there are batches."""
    name = params.operation
    if params.alternate and (not online or name in (CROP, *MIXINGS)):
        raise ParamsError(
            f"augmentation {name!r}: alternate is for what training does to each image by itself; "
            "leave it out"
        )
    if name in (CROP, *MIXINGS) and not online:
        raise ParamsError(
            f"augmentation {name!r} works in training only: move it from augment.offline to "
            "augment.online"
        )
    if name == CROP and (before or params.probability < 1):
        raise ParamsError(
            f"augmentation {name!r} is what the loader decodes: it must come first in "
            "augment.online, with probability 1"
        )
    mixed = [entry.operation for entry in before if entry.operation in MIXINGS]
    if name in mixed:
        raise ParamsError(f"augmentation {name!r} stands twice in augment.online; leave one")
    if mixed and name not in MIXINGS:
        raise ParamsError(
            f"augmentation {name!r} comes after {mixed[0]!r} in augment.online: images are mixed "
            "when all else is done, so put it before"
        )
