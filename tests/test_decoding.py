"""Facts about decoding: formats, oddities, orientation, boxes and kernels."""

import io
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from encoded_images import (
    Pixels,
    in_pure_python,
    jpeg,
    noise,
    oriented,
    photograph,
    saved,
)
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from imagemill.decoding import (
    RESIZES,
    Decoder,
    centre_box,
    compiled,
    decode,
    decode_image,
    encode_png,
    find_resize,
    pillow,
    read_header,
)
from imagemill.errors import IntegrityError, UnknownNameError
from imagemill.frames import Pieces
from imagemill.loading.torch_kernel import antialias_by_torch

WAYS = {"compiled": nullcontext, "pure": in_pure_python}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """With the compiled part and without it."""
    if request.param == "compiled" and compiled.native is None:
        pytest.skip("the compiled part is not built here")
    with WAYS[request.param]():
        yield request.param


def by_pillow(data: bytes) -> Pixels:
    """The reference: what Pillow makes of it, upright, in RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


# Formats ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_png_survives_encoding_and_decoding(channels: int) -> None:
    """PNG is lossless, in grey and in RGB order."""
    pixels = noise(5, 7)[:, :, :channels]
    assert np.array_equal(decode(encode_png(pixels), channels=channels), pixels)


PICTURE = Image.fromarray(photograph(37, 50))
ENCODED = {
    "jpeg": saved(PICTURE, "JPEG"),
    "jpeg 4:4:4": saved(PICTURE, "JPEG", subsampling=0),
    "jpeg, progressive": saved(PICTURE, "JPEG", progressive=True),
    "jpeg, grey": saved(PICTURE.convert("L"), "JPEG"),
    "jpeg, CMYK": saved(PICTURE.convert("CMYK"), "JPEG"),
    "png": saved(PICTURE, "PNG"),
    "png, grey": saved(PICTURE.convert("L"), "PNG"),
    "png, alpha": saved(PICTURE.convert("RGBA"), "PNG"),
    "png, grey with alpha": saved(PICTURE.convert("LA"), "PNG"),
    "png, palette": saved(PICTURE.convert("P"), "PNG"),
    "png, bits": saved(PICTURE.convert("1"), "PNG"),
    "bmp": saved(PICTURE, "BMP"),
    "gif": saved(PICTURE, "GIF"),
    "tiff": saved(PICTURE, "TIFF"),
    "webp": saved(PICTURE, "WEBP", lossless=True),
}


@pytest.mark.parametrize("data", ENCODED.values(), ids=ENCODED)
def test_pixels_are_those_of_pillow(data: bytes, way: str) -> None:
    """Whichever decoder takes a file, the pixels are the reference's, to the last bit."""
    expected = by_pillow(data)
    found = decode_image(data, input_shape=(3, *expected.shape[:2]), resize="linear")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_stays_grey(mode: str) -> None:
    """In one channel a grey PNG has the levels that it has in three."""
    data = saved(PICTURE.convert(mode), "PNG")
    assert np.array_equal(decode(data, channels=1)[:, :, 0], by_pillow(data)[:, :, 0])


def test_grey_of_a_colour_jpeg_is_its_luma() -> None:
    """The stored luma, within 2 levels of Pillow's grey where no colour was clipped."""
    data = saved(Image.fromarray(photograph(40, 40) // 2 + 64), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)
    assert np.abs(decode(data, channels=1)[:, :, 0] - expected).max() <= 2


def test_sixteen_bits_become_eight_by_the_upper_byte() -> None:
    """Level 0xABCD is 0xAB, not 255 as when Pillow clips."""
    data = saved(Image.fromarray(np.full((3, 4), 0xABCD, np.uint16)), "PNG")
    assert (decode(data, channels=3) == 0xAB).all()


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "P", "RGBA"])
def test_grey_of_any_colours_is_that_of_their_rgb(mode: str) -> None:
    """Also of those from which Pillow itself has no way to grey."""
    data = saved(Image.new(mode, (4, 3), 77), "TIFF")
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(stored.convert("RGB").convert("L"))
    assert np.array_equal(decode(data, channels=1)[:, :, 0], expected)


def test_alpha_is_dropped() -> None:
    """Colours under a transparent pixel are what they are."""
    pixels = np.full((4, 4, 4), (10, 20, 30, 0), np.uint8)
    assert (decode(saved(pixels, "PNG"), channels=3) == (10, 20, 30)).all()


def test_the_first_frame_stands_for_an_animation() -> None:
    """Of an animated GIF and PNG the first picture is taken."""
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG"):
        data = saved(frames[0], form, save_all=True, append_images=frames[1:])
        assert (decode(data, channels=3) == (255, 0, 0)).all()


def test_floats_are_refused() -> None:
    """A mode without a known white is named, not guessed at."""
    data = saved(Image.new("F", (4, 4)), "TIFF")
    with pytest.raises(IntegrityError, match="mode F has no white"):
        decode(data, channels=3)


@pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff", ENCODED["png"][:30]])
def test_what_is_no_image_is_an_integrity_error(data: bytes, way: str) -> None:
    """Empty, foreign and hardly begun files are refused by name."""
    with pytest.raises(IntegrityError, match="cannot be decoded"):
        decode_image(data, input_shape=(3, 8, 8), resize="linear")


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_what_is_cut_off_is_an_integrity_error(form: str, share: float, way: str) -> None:
    """A file whose end is missing is refused, even where a decoder would fill it up with grey."""
    data = saved(Image.fromarray(noise(64, 64)), form)
    cut = data[: int(len(data) * share)]
    with pytest.raises(IntegrityError, match="cannot be decoded"):
        Decoder((3, 64, 64), "linear").one(cut, np.empty((64, 64, 3), np.uint8))


# Orientation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_orientation_is_applied_once(orientation: int, options: dict[str, bool], way: str) -> None:
    """A JPEG stored in any of the eight ways is upright, as Pillow's exif_transpose has it."""
    data = oriented(photograph(24, 40), orientation, **options)
    expected = by_pillow(data)
    found = decode_image(data, input_shape=(3, *expected.shape[:2]), resize="linear")
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_other_formats_have_an_orientation_too(form: str) -> None:
    """EXIF inside PNG, WebP and TIFF counts; the header knows the upright size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(photograph(24, 40), form, exif=exif)
    assert (decode(data, channels=3).shape, read_header(data).upright) == ((40, 24, 3), (40, 24))


def test_orientation_in_a_text_chunk_counts() -> None:
    """Some writers put EXIF into a PNG as text."""
    exif = Image.Exif()
    exif[0x0112] = 6
    block = exif.tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    data = saved(photograph(24, 40), "PNG", pnginfo=text)
    assert decode(data, channels=3).shape == (40, 24, 3)


def test_broken_exif_leaves_the_picture_alone() -> None:
    """An EXIF block that makes no sense is no reason to lose an image."""
    data = saved(photograph(24, 40), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data, channels=3).shape == (24, 40, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_of_the_upright_picture(orientation: int, way: str) -> None:
    """A random box is cut out of what a person sees, not of what is stored."""
    data = oriented(photograph(48, 80), orientation)
    whole = by_pillow(data)
    top, left, tall, wide = 5, 9, 20, 30
    found = np.empty((1, tall, wide, 3), np.uint8)
    Decoder((3, tall, wide), "linear").batch(
        Pieces.of([data]), found, name=str, boxes_B4=np.array([[top, left, tall, wide]])
    )
    assert np.array_equal(found[0], whole[top : top + tall, left : left + wide])


# Boxes and kernels -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "expected"),
    [
        ((10, 30), (10, 10), (0, 10, 10, 10)),
        ((30, 10), (10, 10), (10, 0, 10, 10)),
        ((800, 600), (224, 224), (100, 0, 600, 600)),
        ((8, 8), (28, 28), (0, 0, 8, 8)),
        ((100, 100), (10, 20), (25, 0, 50, 100)),
        ((1, 50), (10, 10), (0, 24, 1, 1)),
    ],
)
def test_the_centre_is_as_large_as_it_can_be(
    size: tuple[int, int], wanted: tuple[int, int], expected: tuple[int, ...]
) -> None:
    """The box fills the shorter side and keeps the wanted proportions."""
    assert centre_box(size, wanted) == expected


@pytest.mark.parametrize(("height", "width"), [(8, 8), (100, 40), (31, 64), (32, 32), (1, 3)])
@pytest.mark.parametrize("resize", RESIZES)
def test_every_image_is_brought_to_the_input(
    height: int, width: int, resize: str, way: str
) -> None:
    """Small, tall and wide images all end at the model's size."""
    data = encode_png(noise(height, width))
    assert decode_image(data, input_shape=(3, 32, 32), resize=resize).shape == (32, 32, 3)


def test_an_unknown_kernel_is_answered_with_the_nearest() -> None:
    """A misspelt name gets the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'antialias'"):
        find_resize("antialiased")


SIZES = [
    ((450, 450), (224, 224)),
    ((700, 210), (224, 224)),
    ((210, 700), (224, 224)),
    ((100, 90), (224, 224)),
    ((4000, 3000), (32, 32)),
    ((7, 5), (3, 2)),
    ((1, 1), (4, 4)),
    ((2000, 3), (4, 4)),
    ((225, 224), (224, 224)),
]
Kernel = Callable[[Pixels, Pixels], None]


def resized(kernel: Kernel, source: Pixels, size: tuple[int, int]) -> Pixels:
    out = np.empty((*size, source.shape[2]), np.uint8)
    kernel(source, out)
    return out


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("source", "target"), SIZES)
def test_antialias_is_pillows_triangle(
    source: tuple[int, int], target: tuple[int, int], channels: int, way: str
) -> None:
    """The kernel gives Pillow's BILINEAR to the last bit, compiled or not."""
    pixels = np.ascontiguousarray(noise(*source)[:, :, :channels])
    image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
    expected = np.asarray(image.resize(target[::-1], Image.Resampling.BILINEAR))
    found = resized(RESIZES["antialias"], pixels, target)
    assert np.array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_torch_antialiases_within_a_level(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Torch stands in for the compiled kernel: 1 level off at most, in a quarter of all values."""
    pixels = noise(*source)
    expected = resized(RESIZES["antialias"], pixels, target).astype(int)
    off = np.abs(resized(antialias_by_torch, pixels, target) - expected)
    assert off.max() <= 1
    assert off.mean() <= 0.25


@pytest.mark.parametrize(("source", "target"), SIZES[3:])
def test_linear_looks_at_four_pixels(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Bilinear weights of the four pixels around each centre, within a level of exact ones."""
    pixels = noise(*source)
    rows, columns = (
        (np.arange(new) + 0.5) * old / new - 0.5 for old, new in zip(source, target, strict=True)
    )
    grid = np.meshgrid(columns.clip(0, source[1] - 1), rows.clip(0, source[0] - 1))
    expected = cv2.remap(
        pixels.astype(np.float32), *(part.astype(np.float32) for part in grid), cv2.INTER_LINEAR
    )
    found = resized(RESIZES["linear"], pixels, target)
    assert np.abs(found - expected.reshape(found.shape)).max() <= 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_reduced_averages_squares(channels: int) -> None:
    """From 130x129 to 30x32: squares of 4 pixels are averaged, then `linear` does the rest."""
    pixels = np.ascontiguousarray(noise(130, 129)[:, :, :channels])
    squares = pixels[:128, :128].reshape(32, 4, 32, 4, channels).mean(axis=(1, 3))
    averages = np.rint(squares).astype(np.uint8)
    expected = resized(RESIZES["linear"], averages, (30, 32)).astype(int)
    assert np.abs(resized(RESIZES["reduced"], pixels, (30, 32)) - expected).max() <= 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_reduced_by_its_decoder(orientation: int, way: str) -> None:
    """The decoder's halves are near the averages: 3 levels on average, on a smooth picture."""
    smooth = cv2.resize(photograph(40, 30), (300, 400), interpolation=cv2.INTER_CUBIC)
    data = oriented(np.asarray(smooth, np.uint8), orientation)
    found = decode_image(data, input_shape=(3, 64, 64), resize="reduced").astype(int)
    upright = decode(data, channels=3)
    top, left, tall, wide = centre_box(upright.shape[:2], (64, 64))
    box = upright[top : top + tall, left : left + wide]
    expected = resized(RESIZES["reduced"], box, (64, 64))
    assert np.abs(found - expected).mean() <= 3


def test_what_is_hardly_larger_is_not_reduced() -> None:
    """Below twice the size, `reduced` is `linear`."""
    pixels = noise(63, 63)
    expected = resized(RESIZES["linear"], pixels, (32, 32))
    assert np.array_equal(resized(RESIZES["reduced"], pixels, (32, 32)), expected)


@pytest.mark.parametrize("resize", RESIZES)
def test_kernels_take_part_of_an_array(resize: str, way: str) -> None:
    """Rows that lie apart, as those of a box do, give the pixels of a copy."""
    whole = noise(60, 70)
    part = whole[7:50, 11:61]
    kernel = RESIZES[resize]
    copied = resized(kernel, np.ascontiguousarray(part), (20, 20))
    assert np.array_equal(resized(kernel, part, (20, 20)), copied)


def test_threads_of_opencv_do_not_change_pixels() -> None:
    """Decoding and resizing give the same bytes on one thread and on two."""
    data = encode_png(noise(300, 400))
    results = []
    before = cv2.getNumThreads()
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        results.append(decode_image(data, input_shape=(3, 64, 64), resize="linear"))
    cv2.setNumThreads(before)
    assert np.array_equal(*results)


# Batches ---------------------------------------------------------------------------------------


def test_a_batch_is_its_images(way: str) -> None:
    """Images of the input's size and others, upright and turned: each is where it belongs."""
    datas = [
        jpeg(photograph(32, 32, seed=1)),
        jpeg(photograph(50, 60, seed=2)),
        oriented(photograph(32, 32, seed=3), 6),
        encode_png(photograph(32, 32, seed=4)),
        jpeg(photograph(32, 32, seed=5), progressive=True),
    ]
    found = np.empty((5, 32, 32, 3), np.uint8)
    Decoder((3, 32, 32), "linear").batch(Pieces.of(datas), found, name=str)
    expected = [decode_image(data, input_shape=(3, 32, 32), resize="linear") for data in datas]
    assert np.array_equal(found, np.stack(expected))


def test_a_bad_image_in_a_batch_is_named(way: str) -> None:
    """The message says which image, in the words of whoever asked."""
    datas = [jpeg(photograph(16, 16)), jpeg(noise(16, 16))[:200]]
    out = np.empty((2, 16, 16, 3), np.uint8)
    with pytest.raises(IntegrityError, match="image 'cat/1' cannot be decoded"):
        Decoder((3, 16, 16), "linear").batch(
            Pieces.of(datas), out, name=["cat/0", "cat/1"].__getitem__
        )


def test_formats_are_those_of_the_audit() -> None:
    """What the audit lets through, training can read, and nothing else."""
    from imagemill.audit import decode as audited

    assert pillow.FORMATS == audited.FORMATS
