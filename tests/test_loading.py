"""Facts about loading: decoding, the order of training, the ledger, and splits as arrays."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_shards import make_shards, picture
from PIL import Image

from imagemill.decoding import decode, decode_image, encode_png
from imagemill.errors import IntegrityError, TrainingError
from imagemill.loading import Ledger, epoch_order, open_split, rank_slice, to_input
from imagemill.loading.order import global_batch, num_steps
from imagemill.params import LoadingParams, read_params
from imagemill.randomness import key_hashes, uniforms
from imagemill.records import DATA

SHIPPED = read_params(Path(__file__).resolve().parent.parent).loading
CACHED = SHIPPED.model_copy(update={"cache_bytes": 10**9})
ON_DEMAND = SHIPPED.model_copy(update={"cache_bytes": 0})
KEYS = [f"k{number:04d}" for number in range(1007)]


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def colours(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_png_survives_encoding_and_decoding() -> None:
    """PNG is lossless, in grey and in RGB order."""
    for pixels in (colours(5, 7), colours(5, 7)[:, :, :1]):
        assert np.array_equal(decode(encode_png(pixels), channels=pixels.shape[2]), pixels)


def test_decoding_agrees_with_pillow() -> None:
    """JPEG decodes to what Pillow makes of it."""
    data = jpeg(np.full((16, 16, 3), (200, 40, 90), np.uint8))
    expected = np.asarray(Image.open(io.BytesIO(data)))
    assert np.abs(decode(data, channels=3).astype(int) - expected).max() <= 1


def test_orientation_is_applied() -> None:
    """An image stored on its side is turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(jpeg(colours(8, 20), exif=exif), channels=3).shape == (20, 8, 3)


def test_other_formats_go_through_pillow() -> None:
    """A CMYK TIFF, which the fast decoder does not take as it is, becomes RGB."""
    stream = io.BytesIO()
    Image.new("CMYK", (4, 6)).save(stream, "TIFF")
    assert decode(stream.getvalue(), channels=3).shape == (6, 4, 3)


@pytest.mark.parametrize("data", [b"", b"no image", jpeg(colours(9, 9))[:40]])
def test_what_is_no_image_is_an_integrity_error(data: bytes) -> None:
    """Empty, foreign and cut-off bytes are refused by name."""
    with pytest.raises(IntegrityError, match="cannot be decoded"):
        decode(data, channels=3)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (100, 40), (31, 64), (32, 32)])
def test_every_image_is_brought_to_the_input(height: int, width: int) -> None:
    """Small, tall and wide images all end at the model's size."""
    data = encode_png(colours(height, width))
    assert decode_image(data, input_shape=(3, 32, 32), resize="antialias").shape == (32, 32, 3)


def test_fitting_keeps_proportions_and_the_centre() -> None:
    """A wide image loses its sides, not its proportions."""
    wide = np.zeros((10, 30, 1), np.uint8)
    wide[:, 10:20] = 255
    centre = decode_image(encode_png(wide), input_shape=(1, 10, 10), resize="antialias")
    assert (centre == 255).all()


def test_antialiasing_averages() -> None:
    """Stripes of one pixel become an even grey when shrunk tenfold."""
    stripes = np.tile(np.array([[0], [255]], np.uint8), (50, 1)).reshape(100, 1, 1).repeat(100, 1)
    shrunk = decode_image(encode_png(stripes), input_shape=(1, 10, 10), resize="antialias")
    inside = shrunk[1:-1].astype(int)
    assert np.ptp(inside) <= 1
    assert abs(inside.mean() - 128) <= 1


def test_input_is_planes_in_unit_range() -> None:
    """uint8 [B, H, W, C] becomes contiguous float32 [B, C, H, W] in 0..1."""
    pixels = colours(4, 5)[np.newaxis]
    planes = to_input(pixels)
    assert (planes.shape, planes.dtype, planes.flags.c_contiguous) == (
        (1, 3, 4, 5),
        np.float32,
        True,
    )
    assert np.allclose(planes[0].transpose(1, 2, 0) * 255, pixels[0])


def test_uniforms_are_uniform() -> None:
    """100,000 draws fill ten bins evenly (chi-squared, 9 degrees of freedom, 0.1 % level)."""
    draws = uniforms(key_hashes([str(number) for number in range(100_000)]), 1, 2, 3)
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 27.9


def test_purposes_draw_independently() -> None:
    """Draws for neighbouring purposes are uncorrelated (4 standard errors)."""
    hashes = key_hashes([str(number) for number in range(100_000)])
    correlation = np.corrcoef(uniforms(hashes, 0, 0), uniforms(hashes, 0, 1))[0, 1]
    assert abs(correlation) < 4 / 100_000**0.5


def test_order_is_a_permutation() -> None:
    """Each sample stands once in an epoch's order."""
    order = epoch_order(key_hashes(KEYS), seed=0, epoch=0)
    assert np.array_equal(np.sort(order), np.arange(len(KEYS)))


def test_order_changes_with_epoch_and_seed() -> None:
    """Seed and epoch each give another order; the same pair the same."""
    hashes = key_hashes(KEYS)
    orders = [
        epoch_order(hashes, seed=seed, epoch=epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert len({order.tobytes() for order in orders}) == 3
    assert np.array_equal(orders[0], epoch_order(hashes, seed=0, epoch=0))


def test_order_belongs_to_the_samples() -> None:
    """Leaving samples out does not change the order of the rest."""
    whole = [KEYS[n] for n in epoch_order(key_hashes(KEYS), seed=3, epoch=5)]
    fewer = KEYS[::2]
    part = [fewer[n] for n in epoch_order(key_hashes(fewer), seed=3, epoch=5)]
    assert part == [key for key in whole if key in set(fewer)]


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_ranks_share_each_global_batch(world: int) -> None:
    """Slices of all ranks put together are the global batch, whatever their number."""
    order = epoch_order(key_hashes(KEYS), seed=0, epoch=0)
    for step in range(num_steps(len(KEYS), 64)):
        batch = global_batch(order, step, 64)
        slices = [rank_slice(batch, rank=rank, world=world) for rank in range(world)]
        assert np.array_equal(np.concatenate(slices), batch)


def test_a_whole_epoch_balances_the_ledger() -> None:
    """Every sample consumed once: nothing missing, nothing twice."""
    ledger = Ledger(key_hashes(KEYS), KEYS)
    ledger.consume(np.arange(len(KEYS)))
    account = ledger.close(ledger.counts_N)
    assert (account.consumed, account.missing, account.duplicate) == (1007, 0, 0)


@pytest.mark.parametrize("positions", [np.arange(1006), np.append(np.arange(1007), 3)])
def test_an_unbalanced_ledger_stops_the_run(positions: np.ndarray) -> None:
    """A missing and a repeated sample are each a TrainingError."""
    ledger = Ledger(key_hashes(KEYS), KEYS)
    ledger.consume(positions)
    with pytest.raises(TrainingError, match="ledger"):
        ledger.close(ledger.counts_N)


@pytest.mark.parametrize("loading", [CACHED, ON_DEMAND], ids=["cached", "on demand"])
def test_a_split_gives_its_images_and_targets(loading: LoadingParams, tmp_path: Path) -> None:
    """Positions follow the sorted keys; pixels and class ids are those of the shards."""
    make_shards(tmp_path)
    images = open_split(tmp_path, "val", input_shape=(1, 12, 12), loading=loading)
    assert list(images.keys) == sorted(images.keys)
    for position in (0, 7, 29):
        number = int(images.keys[position].rpartition("/")[2])
        assert np.array_equal(images.take(np.array([position]))[0], picture(number, 12))
        assert images.targets_N[position] == number % 3


def test_the_cache_gives_the_same_pixels(tmp_path: Path) -> None:
    """Resized and cached, read again, or decoded on demand: the same bytes."""
    make_shards(tmp_path)
    everything = np.arange(60)
    first, second, third = (
        open_split(tmp_path, "train", input_shape=(3, 20, 20), loading=loading).take(everything)
        for loading in (CACHED, CACHED, ON_DEMAND)
    )
    assert np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_a_cut_shard_is_named(tmp_path: Path) -> None:
    """A shard that ends too early is an IntegrityError that names it."""
    make_shards(tmp_path)
    shard = tmp_path / DATA / "shards/test/test-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(IntegrityError, match=r"test-000000\.tar ends before"):
        open_split(tmp_path, "test", input_shape=(1, 12, 12), loading=CACHED)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    """An image whose bytes were overwritten is an IntegrityError with its key."""
    make_shards(tmp_path)
    shard = tmp_path / DATA / "shards/test/test-000000.tar"
    content = bytearray(shard.read_bytes())
    content[512:700] = bytes(188)
    shard.write_bytes(content)
    with pytest.raises(IntegrityError, match="image 'test/dark/0000' cannot be decoded"):
        open_split(tmp_path, "test", input_shape=(1, 12, 12), loading=CACHED)


def test_missing_shards_say_what_to_do(tmp_path: Path) -> None:
    """Without an index the error says which command makes it."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        open_split(tmp_path, "val", input_shape=(1, 12, 12), loading=CACHED)


def test_threads_of_opencv_do_not_change_pixels() -> None:
    """Decoding and resizing give the same bytes on one thread and on two."""
    data = encode_png(colours(300, 400))
    results = []
    before = cv2.getNumThreads()
    for threads in (1, 2):
        cv2.setNumThreads(threads)
        results.append(decode_image(data, input_shape=(3, 64, 64), resize="antialias"))
    cv2.setNumThreads(before)
    assert np.array_equal(*results)
