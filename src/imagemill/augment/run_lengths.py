"""COCO's run lengths: masks as the lengths of runs of 0 and 1 by turns, 0 first, down the columns.

`{"size": [height, width], "counts": ...}`, where counts are a list of numbers, or a text of them
with five bits a character.

Source: the format of cocoapi (`maskApi.c`, rleToString and rleFrString), in own code.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FIRST = 48  # the character of zero
_BITS = 5
_LOW, _SIGN, _MORE = 0x1F, 0x10, 0x20
_LONGEST_BITS = 64  # no image has so many pixels


def mask_of(document: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask of an object, bool [H, W].

    Args:
        document: Size and counts.
        size: Height and width of the image.

    Raises:
        ValueError: these are no run lengths of a mask of this size.
    """
    counts = document.get("counts")
    runs = list(_numbers_in(counts)) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(isinstance(run, int) and run >= 0 for run in runs):
        raise ValueError(f"expected a text or a list of lengths, got {type(counts).__name__}")
    if document.get("size") != list(size) or sum(runs) != size[0] * size[1]:
        raise ValueError(f"expected run lengths of {size[0]} x {size[1]} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0]).T


def run_lengths(mask_HW: NDArray[np.bool_], *, as_text: bool) -> dict[str, Any]:
    """The document of a mask, its counts as a text or as a list."""
    values = mask_HW.T.ravel()
    borders = np.flatnonzero(values[1:] != values[:-1]) + 1
    runs = np.diff([0, *borders.tolist(), values.size]).tolist()
    if values.size and values[0]:
        runs.insert(0, 0)
    return {"size": list(mask_HW.shape), "counts": _text_of(runs) if as_text else runs}


def _numbers_in(text: str) -> Iterator[int]:
    """From the third but one on, what is noted is the difference to the number before the last."""
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - _FIRST
        if not 0 <= bits < 2 * _MORE or shift >= _LONGEST_BITS:
            raise ValueError(f"{character!r} is no character of run lengths")
        value |= (bits & _LOW) << shift
        shift += _BITS
        if bits & _MORE:
            continue
        if bits & _SIGN:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        yield numbers[-1]
        value = shift = 0


def _text_of(runs: Sequence[int]) -> str:
    characters = []
    for place, run in enumerate(runs):
        value = run - (runs[place - 2] if place > 2 else 0)
        more = True
        while more:
            bits = value & _LOW
            value >>= _BITS
            more = value != (-1 if bits & _SIGN else 0)
            characters.append(chr(bits + _MORE * more + _FIRST))
    return "".join(characters)
