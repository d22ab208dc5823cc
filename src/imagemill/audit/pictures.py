"""Pictures of a data set: some images of each class, and how many there are."""

import base64
import io
import warnings
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from imagemill.records import publishing
from imagemill.sources import RawReader

_TILE = 72
_GAP = 4
_LABEL_WIDTH = 150
_BAR_WIDTH = 480
_ROW = 22
_MAX_BARS = 200
_INK, _PAPER, _BAR = "#202020", "#ffffff", "#4477aa"

Place = tuple[str, int, int]  # uri, offset, size_bytes


def draw_contact_sheet(path: Path, picks: dict[str, list[Place]], reader: RawReader) -> None:
    """One row a class: its name, then its images fitted into squares.

    Args:
        path: A .png that is written whole.
        picks: Class name -> where a few of its images lie; all are known to decode.
        reader: Gives their bytes.
    """
    columns = max(map(len, picks.values()))
    width = _LABEL_WIDTH + columns * (_TILE + _GAP)
    sheet = Image.new("RGB", (width, len(picks) * (_TILE + _GAP) + _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, places) in enumerate(sorted(picks.items())):
        top = _GAP + row * (_TILE + _GAP)
        draw.text((_GAP, top + _TILE // 2 - 6), _fitting(name), fill=_INK, font=_font())
        for column, place in enumerate(places):
            tile = _tile(reader.read(*place))
            left = _LABEL_WIDTH + column * (_TILE + _GAP)
            offset = ((_TILE - tile.width) // 2, (_TILE - tile.height) // 2)
            sheet.paste(tile, (left + offset[0], top + offset[1]))
    _save(sheet, path)


def draw_class_balance(path: Path, counts: dict[str, int]) -> None:
    """One bar a class, the longest for the largest; of very many classes those at both ends.

    Args:
        path: A .png that is written whole.
        counts: Class name -> images.
    """
    largest = max(counts.values())
    if len(counts) > _MAX_BARS:
        by_size = sorted(counts, key=lambda name: (counts[name], name))
        shown = by_size[: _MAX_BARS // 2] + by_size[-_MAX_BARS // 2 :]
        counts = {name: counts[name] for name in shown}
    height = len(counts) * _ROW + 2 * _GAP
    chart = Image.new("RGB", (_LABEL_WIDTH + _BAR_WIDTH + 80, height), _PAPER)
    draw = ImageDraw.Draw(chart)
    for row, (name, count) in enumerate(sorted(counts.items())):
        top = _GAP + row * _ROW
        right = _LABEL_WIDTH + max(1, round(_BAR_WIDTH * count / largest))
        draw.text((_GAP, top + 4), _fitting(name), fill=_INK, font=_font())
        draw.rectangle((_LABEL_WIDTH, top + 2, right, top + _ROW - 4), fill=_BAR)
        draw.text((right + 6, top + 4), f"{count:,}", fill=_INK, font=_font())
    _save(chart, path)


def thumbnail_uri(content: bytes, side: int) -> str:
    """An image, fitted into a square and as training sees it, as a data URI."""
    stream = io.BytesIO()
    tile = _tile(content, side)
    tile.save(stream, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _tile(content: bytes, side: int = _TILE) -> Image.Image:
    """The whole image, as large as fits; small ones are enlarged without smoothing."""
    with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
        warnings.simplefilter("ignore")  # all that is to be said of the file has been said
        # A JPEG is decoded at a fraction of its size where that is enough.
        image.draft("RGB", (2 * side, 2 * side))
        tile = _eight_bit(image)
        with suppress(Exception):  # metadata that cannot be read turn nothing
            tile = ImageOps.exif_transpose(tile)
        tile = tile.convert("RGB")
    scale = min(side / tile.width, side / tile.height)
    size = (max(1, round(tile.width * scale)), max(1, round(tile.height * scale)))
    return tile.resize(size, Image.Resampling.NEAREST if scale > 2 else Image.Resampling.BOX)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda level: level / 256).convert("L")
    return image


def _fitting(name: str) -> str:
    return name if len(name) <= 22 else name[:21] + "…"


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(12)


def _save(image: Image.Image, path: Path) -> None:
    with publishing(path) as temporary:
        image.save(temporary, format="PNG", compress_level=2)
