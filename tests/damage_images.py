"""Decodes damaged JPEGs in every way there is: `python damage_images.py ROUNDS [FOLDER]`."""

import sys
import warnings
from pathlib import Path

import numpy as np
from encoded_images import SUBSAMPLINGS, jpeg, oriented, photograph

from imagemill.decoding import Decoder, compiled, read_header
from imagemill.errors import IntegrityError
from imagemill.frames import Pieces


def originals(folder: Path | None) -> list[bytes]:
    """What is damaged: the JPEGs of a folder, or some of each kind."""
    if folder is not None:
        return [path.read_bytes() for path in sorted(folder.rglob("*.jp*g"))]
    made = [
        jpeg(photograph(60, 90, seed=seed), subsampling=subsampling, progressive=progressive)
        for seed, subsampling in enumerate(SUBSAMPLINGS)
        for progressive in (False, True)
    ]
    return [*made, *(oriented(photograph(60, 90), way) for way in (1, 6))]


def small_ones() -> list[list[bytes]]:
    """Images that can be decoded together, eight of each kind."""
    return [
        [jpeg(photograph(32, 48, seed=seed), subsampling=subsampling) for seed in range(8)]
        for subsampling in ("420", "444", "Gray")
    ]


def check_company(images: list[bytes], number: int, draws: np.random.Generator) -> None:
    """A damaged image among others: each comes out as it does alone, or is refused as it is."""
    images = list(images)
    images[number % len(images)] = damaged(images[number % len(images)], draws)
    together, channels = np.zeros((len(images), 32, 48, 3), np.uint8), (1, 3)[number % 2]
    together = together[..., :channels].copy()
    refused = decode_batch(images, together)
    for image, data in enumerate(images):
        alone = np.zeros((1, *together.shape[1:]), np.uint8)
        assert (image in refused) == bool(decode_batch([data], alone)), image
        assert image in refused or np.array_equal(together[image], alone[0]), image


def decode_batch(datas: list[bytes], out: np.ndarray) -> list[int]:
    """Images of one size; returns which were refused."""
    pieces = Pieces.of(datas)
    frames = (pieces.buffers, pieces.buffer_B, pieces.offset_B, pieces.size_B)
    refused: list[int] = compiled.native.decode_batch(*frames, out, *out.shape[1:])
    return refused


def damaged(data: bytes, draws: np.random.Generator) -> bytes:
    """Some bytes changed, a part moved, or the end missing."""
    content = np.frombuffer(data, np.uint8).copy()
    kind = draws.integers(4)
    if kind == 0:
        return data[: draws.integers(len(data))]
    if kind == 1:  # in the headers, where it hurts
        content[draws.integers(0, min(700, len(data)), 3)] = draws.integers(0, 256, 3)
    elif kind == 2:
        content[draws.integers(0, len(data), 8)] = draws.integers(0, 256, 8)
    else:
        start, other = draws.integers(0, max(1, len(data) - 50), 2)
        content[start : start + 50] = content[other : other + 50].copy()
    return content.tobytes()


def main(rounds: int, folder: Path | None) -> None:
    warnings.simplefilter("ignore")
    draws = np.random.default_rng(0)
    files, small = originals(folder), small_ones()
    decoders = {channels: Decoder((channels, 32, 32), "antialias") for channels in (1, 3)}
    scratch, guard = np.zeros(200 * (200 + 68) * 3 + 64, np.uint8), 0xA5
    scratch[-64:] = guard
    refused = 0
    for number in range(rounds):
        data = damaged(files[number % len(files)], draws)
        channels = (1, 3)[number % 2]
        out = np.empty((1, 32, 32, channels), np.uint8)
        box = draws.integers(1, 60, 4).tolist()
        compiled.native.decode_region(data, scratch[:-64], *box, channels, 1 << number % 4)
        decode_batch([data, data], np.empty((2, 60, 90, 3), np.uint8))
        check_company(small[number % len(small)], number, draws)
        try:
            decoders[channels].batch(Pieces.of([data]), out, name=str)
            height, width = read_header(data).upright
            corner = np.array([[0, 0, min(40, height), min(50, width)]])
            decoders[channels].batch(Pieces.of([data]), out, name=str, boxes_B4=corner)
        except IntegrityError:
            refused += 1
    assert (scratch[-64:] == guard).all(), "written beyond the buffer"
    print(refused, "refused, the process is whole")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
