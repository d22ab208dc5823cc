"""CASES: what is compared, by name."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from benchmarks.loaders import decoding, ours, peers
from benchmarks.loaders.work import Turn, Work


class Case(NamedTuple):
    """A way to read a data set.

    epochs: Endless epochs of a work, each of which yields the sizes of its batches. While it works
        for long before the first of them, it calls what it is given.
    package: What it needs beside ours.
    stops: Whether its work ends with an epoch that is left early.
    """

    epochs: Callable[[Work, Turn], Iterator[Iterator[int]]]
    package: str | None = None
    stops: bool = True


CASES = {
    "decoding, simplejpeg": Case(decoding.by_simplejpeg),
    "decoding, simplejpeg into one buffer": Case(decoding.by_simplejpeg_into_a_buffer),
    "decoding, OpenCV": Case(decoding.by_opencv),
    "imagemill, antialias": Case(ours.epochs),
    "imagemill, antialias, pure Python": Case(partial(ours.epochs, pure=True)),
    "imagemill, linear": Case(partial(ours.epochs, resize="linear")),
    "imagemill, linear, pure Python": Case(partial(ours.epochs, resize="linear", pure=True)),
    "imagemill, reduced": Case(partial(ours.epochs, resize="reduced")),
    "imagemill, reduced, pure Python": Case(partial(ours.epochs, resize="reduced", pure=True)),
    "imagemill": Case(ours.epochs),
    "imagemill, pure Python": Case(partial(ours.epochs, pure=True)),
    "imagemill, decoded cache": Case(partial(ours.epochs, cached=True)),
    "imagemill, decoded cache, pure Python": Case(partial(ours.epochs, cached=True, pure=True)),
    "torchvision ImageFolder": Case(peers.imagefolder),
    "webdataset": Case(peers.webdataset),
    "litdata": Case(peers.litdata, "litdata"),
    "mosaicml-streaming": Case(peers.mosaicml, "streaming"),
    "FFCV": Case(peers.ffcv, "ffcv", stops=False),
    "DALI": Case(peers.dali, "nvidia.dali"),
}
