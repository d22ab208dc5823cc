"""Facts of one image: whole or not, what it looks like, and what its file tells beside pixels."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from raw_images import encoded

from imagemill.audit.decode import prepare
from imagemill.audit.facts import FORMS, IDENTIFYING, MEASUREMENT, named_bits
from imagemill.audit.measure import measure

MAX_PIXELS = 50_000_000


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare()


def facts_of(content: bytes, *, max_pixels: int = MAX_PIXELS) -> Any:
    """The record of one image."""
    facts_N, _ = measure([content], max_pixels=max_pixels)
    return facts_N[0]


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """An encoded image."""
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def scene(width: int = 96, height: int = 80) -> Image.Image:
    """A smooth picture without symmetry, as photographs are."""
    noise = np.random.default_rng(5).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


# Whole or not --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
def test_whole_image_is_fit(form: str) -> None:
    """Every common format passes, and is known by its content."""
    facts = facts_of(encoded(1, form=form))
    assert (facts["fault"], facts["format"], facts["width"]) == (b"", form.encode(), 32)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize("cut", [1, 2, 10, 40, 200])
def test_truncated_image_is_unfit(form: str, cut: int) -> None:
    """A file that lost even its last byte is noticed."""
    assert facts_of(encoded(1, form=form)[:-cut])["fault"] == b"truncated"


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_every_truncation_is_unfit(form: str) -> None:
    """Wherever the file was cut, it does not pass."""
    whole = encoded(1, form=form, size=16)
    facts_N, _ = measure((whole[:length] for length in range(len(whole))), max_pixels=MAX_PIXELS)
    assert (facts_N["fault"] != b"").all()


def test_noise_is_corrupt() -> None:
    """A file that is no image says so."""
    facts = facts_of(b"this is not an image" * 50)
    assert (facts["fault"], facts["width"]) == (b"corrupt", 0)


def test_too_many_pixels_are_never_decoded() -> None:
    """The header alone is enough to refuse an image, and tells how large it would be."""
    facts = facts_of(encoded(1, size=40), max_pixels=1599)
    assert (facts["fault"], facts["width"], facts["height"]) == (b"over_large", 40, 40)
    assert facts_of(encoded(1, size=40), max_pixels=1600)["fault"] == b""


def test_program_in_disguise_is_not_run() -> None:
    """PostScript, for which Pillow would start another program, is no image here."""
    assert facts_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")["fault"] == b"corrupt"


@pytest.mark.parametrize("mode", ["I", "F"])
def test_numbers_without_range_are_unsupported(mode: str) -> None:
    """32-bit numbers do not say which of them is white."""
    assert facts_of(encoded(1, mode=mode, form="TIFF"))["fault"] == b"unsupported"


# Pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "form"), [("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG")]
)
def test_statistics_are_those_of_the_pixels(mode: str, form: str) -> None:
    """Mean and mean square are over all pixels as RGB in 0..1; alpha is left out."""
    content = encoded(3, mode=mode, form=form)
    facts = facts_of(content)
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3) / 255
    # They are kept as float32.
    np.testing.assert_allclose(facts["mean_rgb"], pixels.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(facts["mean_square_rgb"], (pixels**2).mean(axis=0), rtol=1e-6)


def test_statistics_of_a_large_image_are_those_of_its_pixels() -> None:
    """An image that is looked at in several bands has the statistics of the whole."""
    levels = np.random.default_rng(0).integers(0, 256, (2600, 3300), dtype=np.uint8)
    facts = facts_of(saved(Image.fromarray(levels), "BMP"))
    np.testing.assert_allclose(facts["mean_rgb"], [levels.mean() / 255] * 3, rtol=1e-6)
    assert (facts["width"], facts["height"]) == (3300, 2600)


def test_sixteen_bits_count_by_their_upper_byte() -> None:
    """A 16-bit grey image has the statistics of its 8-bit form."""
    levels = np.random.default_rng(0).integers(0, 65536, (9, 7), dtype=np.uint16)
    facts = facts_of(saved(Image.fromarray(levels)))
    assert facts["mode"] == b"I;16"
    np.testing.assert_allclose(facts["mean_rgb"], [(levels >> 8).mean() / 255] * 3, rtol=1e-6)


def test_brightness_is_that_of_the_grey_pixels() -> None:
    """Shadow and highlight are percentiles, and entropy that of the histogram."""
    levels = np.repeat(np.array([10, 20, 30, 240], np.uint8), [100, 400, 480, 20]).reshape(20, 50)
    facts = facts_of(saved(Image.fromarray(levels)))
    assert facts["shadow"] == pytest.approx(10 / 255)
    assert facts["highlight"] == pytest.approx(240 / 255)
    shares = np.array([0.1, 0.4, 0.48, 0.02])
    assert facts["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-5)


def test_blur_lowers_sharpness() -> None:
    """The more an image is blurred, the less sharp it is."""
    checks = Image.effect_noise((300, 300), 80)
    blurred = [checks.filter(ImageFilter.GaussianBlur(radius)) for radius in (0, 2, 4, 8)]
    sharpness = [float(facts_of(saved(image))["sharpness"]) for image in blurred]
    assert sharpness == sorted(sharpness, reverse=True) and sharpness[0] > 10 * sharpness[-1]


@pytest.mark.parametrize(("side", "expected"), [(63, False), (64, True)])
def test_small_images_have_no_details(side: int, expected: bool) -> None:
    """Below 64 pixels neither sharpness nor perceptual hash is taken."""
    facts = facts_of(encoded(1, size=side))
    assert bool(facts["detailed"]) is expected
    assert bool(facts["hash"]) is expected


def test_hash_survives_what_copies_go_through() -> None:
    """Scaling and compression move few bits, another picture many."""
    photo = scene(400, 320)
    others = [
        saved(photo.resize((200, 160))),
        saved(photo, "JPEG", quality=40),
        saved(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    ]
    hashes = [int(facts_of(content)["hash"]) for content in (saved(photo), *others)]
    distances = [(hashes[0] ^ other).bit_count() for other in hashes[1:]]
    assert max(distances[:2]) <= 4 and distances[2] > 16


# The file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(orientation: int) -> None:
    """However a photograph is stored, its facts are those of the upright one."""
    photo = scene()
    exif = Image.Exif()
    exif[0x0112] = orientation
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    methods: dict[int, Any] = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    stored = photo if inverse == 1 else photo.transpose(methods[inverse])
    facts, upright = facts_of(saved(stored, exif=exif)), facts_of(saved(photo))
    assert (facts["width"], facts["height"], facts["orientation"]) == (96, 80, orientation)
    assert facts["hash"] == upright["hash"]
    assert np.array_equal(facts["descriptor"], upright["descriptor"])


def test_identifying_metadata_are_found() -> None:
    """Position, serial number, owner and maker's note are told apart; a blank owner is nobody."""
    exif = Image.Exif()
    exif[0x013B] = "  "
    assert facts_of(saved(scene(), "JPEG", exif=exif))["identifying"] == 0
    exif[0x013B] = "A. Nyone"
    exif.get_ifd(0x8769)[0xA431] = "SN 123"
    exif.get_ifd(0x8769)[0x927C] = b"maker's own"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    facts = facts_of(saved(scene(), "JPEG", exif=exif))
    assert set(named_bits(IDENTIFYING, int(facts["identifying"]))) == set(IDENTIFYING)


def test_xmp_is_searched_for_positions() -> None:
    """A position in XMP counts as one in EXIF."""
    packet = b"<x:xmpmeta><exif:GPSLatitude>52,31.2N</exif:GPSLatitude></x:xmpmeta>"
    facts = facts_of(saved(scene(), "JPEG", xmp=packet))
    assert named_bits(IDENTIFYING, int(facts["identifying"])) == ["gps"]


def frames() -> bytes:
    """An animated GIF of three frames."""
    pictures = [scene().rotate(angle) for angle in (0, 90, 180)]
    return saved(pictures[0], "GIF", save_all=True, append_images=pictures[1:])


def see_through() -> Image.Image:
    """A picture of which one pixel is not opaque."""
    image = scene().convert("RGBA")
    image.putpixel((3, 3), (9, 9, 9, 100))
    return image


SIXTEEN = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (saved(scene()), []),
        (saved(scene().convert("L")), ["grey"]),
        (saved(scene().convert("P")), ["palette"]),
        (saved(scene().convert("RGBA")), []),
        (saved(see_through()), ["alpha"]),
        (saved(scene().convert("CMYK"), "JPEG"), ["cmyk"]),
        (saved(SIXTEEN), ["grey", "sixteen_bit"]),
        (frames(), ["palette", "animated"]),
    ],
)
def test_forms_are_told_apart(content: bytes, expected: list[str]) -> None:
    """How pixels are stored is noted; an alpha channel only if it hides something."""
    assert named_bits(FORMS, int(facts_of(content)["forms"])) == expected


def test_figures_belong_to_their_version() -> None:
    """Whoever changes what is measured has to count up MEASUREMENT, which voids cached facts."""
    facts = facts_of(saved(scene(300, 200)))
    figures = [facts[name] for name in ("shadow", "highlight", "entropy", "sharpness")]
    sums = [int(facts["descriptor"][:48].sum()), int(facts["descriptor"][48:].sum())]
    assert MEASUREMENT == 1
    assert figures == pytest.approx([0.255, 0.851, 7.215, 0.016], abs=1e-3)
    assert (f"{int(facts['hash']):016x}", sums) == ("e9e1a3ccd96c9c11", [5592, 268])
