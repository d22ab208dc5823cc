"""Facts about the compiled decoder: the pixels of full decoding, and no way to bring it down."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from encoded_images import SUBSAMPLINGS, in_pure_python, jpeg, noise, oriented, photograph, saved
from PIL import Image

from imagemill.decoding import RESIZES, Box, Decoder, compiled
from imagemill.errors import IntegrityError
from imagemill.frames import Pieces

pytestmark = pytest.mark.skipif(
    compiled.native is None, reason="built only where libjpeg-turbo's headers are"
)
TESTS = Path(__file__).parent
BESIDE = 68  # columns libjpeg may decode beside a box


def region(data: bytes, box: Box, channels: int, scale: int) -> np.ndarray:
    """A box, by partial decoding."""
    buffer = np.zeros(box.height * (box.width + BESIDE) * channels, np.uint8)
    row_pixels, skip = compiled.native.decode_region(data, buffer, *box, channels, scale)
    rows = buffer[: box.height * row_pixels * channels].reshape(box.height, row_pixels, channels)
    return rows[:, skip : skip + box.width]


def scaled(data: bytes, size: tuple[int, int], space: str, scale: int) -> np.ndarray:
    """The whole image at a fraction of its size, by simplejpeg."""
    height, width = (-(-side // scale) for side in size)
    whole = simplejpeg.decode_jpeg(
        data, space, min_height=height, min_width=width, min_factor=scale
    )
    assert whole.shape[:2] == (height, width)
    return whole


def decode_batch(datas: list[bytes], out: np.ndarray) -> list[int]:
    """Images of one size; returns which were not decoded."""
    pieces = Pieces.of(datas)
    frames = (pieces.buffers, pieces.buffer_B, pieces.offset_B, pieces.size_B)
    left: list[int] = compiled.native.decode_batch(*frames, out, *out.shape[1:])
    return left


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_region_is_cut_out_of_the_whole(subsampling: str, progressive: bool) -> None:
    """300 boxes of images of any size have the pixels of full decoding, edges included, also where
    the image is decoded at a half, a quarter or an eighth of its size."""
    draws = np.random.default_rng(0)
    for seed in range(25):
        height, width = (int(side) for side in draws.integers(1, 130, 2))
        data = jpeg(
            photograph(height, width, seed=seed), subsampling=subsampling, progressive=progressive
        )
        for channels, space in ((1, "GRAY"), (3, "RGB")):
            for scale in (1, 1, 1, 2, 4, 8):
                whole = scaled(data, (height, width), space, scale)
                tall, wide = (int(draws.integers(1, side + 1)) for side in whole.shape[:2])
                top = int(draws.integers(0, whole.shape[0] - tall + 1))
                left = int(draws.integers(0, whole.shape[1] - wide + 1))
                found = region(data, Box(top, left, tall, wide), channels, scale)
                assert np.array_equal(found, whole[top : top + tall, left : left + wide])


@pytest.mark.parametrize("resize", RESIZES)
def test_random_boxes_do_not_depend_on_the_compiled_part(resize: str) -> None:
    """A batch of random boxes is the same array with it and without it."""
    draws = np.random.default_rng(0)
    datas, boxes = [], []
    for seed in range(24):
        height, width = (int(side) for side in draws.integers(20, 300, 2))
        picture = photograph(height, width, seed=seed)
        turned = seed % 8 + 1
        datas.append(oriented(picture, turned, progressive=seed % 3 == 0, subsampling=seed % 3))
        upright = (width, height) if turned >= 5 else (height, width)
        tall, wide = (int(draws.integers(1, side + 1)) for side in upright)
        boxes.append(
            (
                int(draws.integers(0, upright[0] - tall + 1)),
                int(draws.integers(0, upright[1] - wide + 1)),
                tall,
                wide,
            )
        )
    found, pure = (np.empty((len(datas), 64, 64, 3), np.uint8) for _ in range(2))
    Decoder((3, 64, 64), resize).batch(Pieces.of(datas), found, name=str, boxes_B4=np.array(boxes))
    with in_pure_python():
        Decoder((3, 64, 64), resize).batch(
            Pieces.of(datas), pure, name=str, boxes_B4=np.array(boxes)
        )
    assert np.array_equal(found, pure)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_batch_call_decodes_what_has_the_size(subsampling: str, channels: int) -> None:
    """Images of one size come out as simplejpeg has them; the others are left and named."""
    datas = [jpeg(noise(32, 32, seed=seed), subsampling=subsampling) for seed in range(6)]
    datas[2] = jpeg(noise(32, 33))
    datas[4] = b"no image"
    out = np.zeros((6, 32, 32, channels), np.uint8)
    left = decode_batch(datas, out)
    assert left == [2, 4]
    for number in (0, 1, 3, 5):
        space = "GRAY" if channels == 1 else "RGB"
        assert np.array_equal(out[number], simplejpeg.decode_jpeg(datas[number], space))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
@pytest.mark.parametrize(
    "size", [(8, 8), (16, 16), (32, 32), (48, 64), (64, 16), (40, 24), (30, 30)]
)
def test_together_is_as_alone(size: tuple[int, int], subsampling: str, channels: int) -> None:
    """300 images decoded together have the pixels of each alone, whatever their quality."""
    datas = [
        saved(
            photograph(*size, seed=seed), "JPEG", quality=(30, 75, 100)[seed // 100], subsampling=0
        )
        if subsampling == "444"
        else jpeg(photograph(*size, seed=seed), subsampling=subsampling)
        for seed in range(300)
    ]
    together = np.zeros((len(datas), *size, channels), np.uint8)
    assert decode_batch(datas, together) == []
    space = "GRAY" if channels == 1 else "RGB"
    for data, pixels in zip(datas, together, strict=True):
        assert np.array_equal(pixels, simplejpeg.decode_jpeg(data, space))


def test_two_kinds_of_headers_share_a_batch() -> None:
    """Images of two qualities and two samplings, shuffled, each come out as alone."""
    datas = [
        saved(
            photograph(32, 32, seed=seed),
            "JPEG",
            quality=50 + 40 * (seed % 2),
            subsampling=seed % 3,
        )
        for seed in range(64)
    ]
    out = np.zeros((64, 32, 32, 3), np.uint8)
    assert decode_batch(datas, out) == []
    alone = [simplejpeg.decode_jpeg(data, "RGB") for data in datas]
    assert np.array_equal(out, np.stack(alone))


def test_one_cut_off_image_does_not_hide_the_others() -> None:
    """Of eight images with one header the damaged one is named, the others are whole."""
    datas = [jpeg(photograph(32, 32, seed=seed)) for seed in range(8)]
    datas[3] = datas[3][:-40] + datas[3][-2:]
    out = np.zeros((8, 32, 32, 3), np.uint8)
    assert decode_batch(datas, out) == [3]
    for number in (0, 1, 2, 4, 5, 6, 7):
        assert np.array_equal(out[number], simplejpeg.decode_jpeg(datas[number], "RGB"))


def test_a_turned_image_is_not_for_the_batch_call() -> None:
    """An image with EXIF may lie on its side: it is left to the caller."""
    out = np.zeros((1, 16, 16, 3), np.uint8)
    assert decode_batch([oriented(noise(16, 16), 1)], out) == [0]


def test_an_image_that_is_cut_off_below_the_box_is_refused() -> None:
    """Decoding a part does not hide that the rest is missing."""
    data = jpeg(noise(200, 200))[:-2000]
    decoder, out = Decoder((3, 20, 20), "linear"), np.empty((1, 20, 20, 3), np.uint8)
    with pytest.raises(IntegrityError, match="truncated"):
        decoder.batch(Pieces.of([data]), out, name=str, boxes_B4=np.array([[0, 0, 20, 20]]))


def test_cmyk_is_left_to_pillow() -> None:
    """Four inks are not three colours."""
    data = saved(Image.new("CMYK", (16, 16)), "JPEG")
    buffer = np.zeros(16 * (16 + BESIDE) * 3, np.uint8)
    assert compiled.native.decode_region(data, buffer, 0, 0, 16, 16, 3, 1) is None


@pytest.mark.parametrize(
    "box", [(-1, 0, 4, 4), (0, 0, 0, 4), (0, 0, 4, 70000), (70000, 0, 4, 4)], ids=str
)
def test_impossible_boxes_are_refused(box: tuple[int, int, int, int]) -> None:
    """A box of no pixels, or from before the image, is a ValueError."""
    with pytest.raises(ValueError, match=r"sides must lie|must start inside"):
        compiled.native.decode_region(jpeg(noise(16, 16)), bytearray(10**5), *box, 3, 1)


@pytest.mark.parametrize("box", [(0, 0, 17, 4), (0, 13, 4, 4), (16, 0, 1, 1)], ids=str)
def test_boxes_outside_the_image_are_not_decoded(box: tuple[int, int, int, int]) -> None:
    """A box that reaches over the edge gives nothing, and writes nothing."""
    buffer = np.zeros(10**5, np.uint8)
    found = compiled.native.decode_region(jpeg(noise(16, 16)), buffer, *box, 3, 1)
    assert (found, int(buffer.sum())) == (None, 0)


def test_a_small_buffer_is_not_overrun() -> None:
    """Where the pixels do not fit they are not written."""
    data, buffer = jpeg(noise(64, 64)), bytearray(64 * 64 * 3 - 1)
    assert compiled.native.decode_region(data, buffer, 0, 0, 64, 64, 3, 1) is None
    with pytest.raises(ValueError, match="too small"):
        decode_batch([data, data], np.empty((1, 64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    ("number", "offset", "size"),
    [(1, 0, 10), (-1, 0, 10), (0, -1, 10), (0, 5, -1), (0, 0, 1001), (0, 1001, 0)],
    ids=str,
)
def test_pieces_outside_their_buffer_are_refused(number: int, offset: int, size: int) -> None:
    """A frame that reaches out of its buffer is a ValueError before anything is read."""
    frames = np.array([number], np.int32), np.array([offset]), np.array([size])
    with pytest.raises(ValueError, match="does not lie inside"):
        compiled.native.decode_batch([bytes(1000)], *frames, bytearray(768), 16, 16, 3)


@pytest.mark.parametrize(
    "arguments",
    [
        (noise(4, 4), noise(4, 4)[:, :, :1].copy()),
        (noise(4, 4)[:, ::2], noise(2, 2)),
        (noise(4, 4)[::-1], noise(2, 2)),
        (noise(4, 4)[0], noise(2, 2)),
        (np.zeros((0, 4, 3), np.uint8), noise(2, 2)),
        (noise(4, 4).astype(np.float32), noise(2, 2)),
    ],
    ids=["channels", "columns apart", "upside down", "a row", "no pixels", "floats"],
)
def test_the_resize_takes_pictures_only(arguments: tuple[np.ndarray, np.ndarray]) -> None:
    """Arrays of any other form are a ValueError, not a crash."""
    with pytest.raises(ValueError, match=r"expected uint8|sides must lie"):
        compiled.native.resize_antialiased(*arguments)


def test_damaged_files_do_not_end_the_process() -> None:
    """3,000 files with bytes flipped, cut off or swapped: decoded, or refused, in a process that
    ends well."""
    script = TESTS / "damage_images.py"
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", script, "3000"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TESTS,
    )
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["whole"]), done.stderr[-2000:]
