"""Facts about loading: decoding, the order of training, the ledger, and splits as arrays."""

from pathlib import Path

import numpy as np
import pytest
from encoded_images import in_pure_python
from made_shards import make_shards, picture

from imagemill.augment import RandomResizedCrop
from imagemill.decoding import RESIZES, decode_image, encode_png, has_compiled_part
from imagemill.errors import IntegrityError, TrainingError
from imagemill.loading import (
    Ledger,
    SplitImages,
    epoch_order,
    images_at_once,
    open_split,
    rank_slice,
    to_input,
)
from imagemill.loading.order import global_batch, num_steps
from imagemill.params import LoadingParams, read_params
from imagemill.randomness import key_hashes, uniforms
from imagemill.records import DATA, STATE

SHIPPED = read_params(Path(__file__).resolve().parent.parent).loading
CACHED = SHIPPED.model_copy(update={"cache_bytes": 10**9})
ON_DEMAND = SHIPPED.model_copy(update={"cache_bytes": 0})
KEYS = [f"k{number:04d}" for number in range(1007)]


def colours(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


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


@pytest.mark.parametrize(("side", "number"), [(32, 500), (96, 348), (224, 64), (5000, 1)])
def test_large_images_are_shown_to_a_net_in_small_numbers(side: int, number: int) -> None:
    """So many that they have 3.2 million pixels, one at least."""
    assert images_at_once(side, side, most=500) == number


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
    account = ledger.close(ledger.counts)
    assert (account.consumed, account.missing, account.duplicate) == (1007, 0, 0)


@pytest.mark.parametrize("positions", [np.arange(1006), np.append(np.arange(1007), 3)])
def test_an_unbalanced_ledger_stops_the_run(positions: np.ndarray) -> None:
    """A missing and a repeated sample are each a TrainingError."""
    ledger = Ledger(key_hashes(KEYS), KEYS)
    ledger.consume(positions)
    with pytest.raises(TrainingError, match="ledger"):
        ledger.close(ledger.counts)


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


CROP = RandomResizedCrop((0.2, 0.8), (0.75, 1.33), 0)


@pytest.fixture
def cropping(tmp_path: Path) -> SplitImages:
    """A split whose random boxes are decoded."""
    make_shards(tmp_path, size=40)
    return open_split(tmp_path, "train", input_shape=(1, 16, 16), loading=CACHED, crop=CROP)


def test_random_boxes_belong_to_the_epoch_and_the_image(cropping: SplitImages) -> None:
    """The same box in any batch, another one in another epoch, the centre without an epoch."""
    some = np.array([7, 3, 50])
    first = cropping.take(np.arange(60), epoch=0)
    assert np.array_equal(cropping.take(some, epoch=0), first[some])
    assert not np.array_equal(cropping.take(some, epoch=1), first[some])
    whole = open_split(cropping.root, "train", input_shape=(1, 16, 16), loading=ON_DEMAND)
    assert np.array_equal(cropping.take(some), whole.take(some))


def test_a_random_box_is_cut_out_and_resized(cropping: SplitImages) -> None:
    """What is decoded is the box that the crop draws, and nothing else."""
    top, left, height, width = CROP.boxes(
        np.array([40]), np.array([40]), cropping.hashes_N[:1], epoch=2
    )[0]
    number = int(cropping.keys[0].rpartition("/")[2])
    box = picture(number, 40)[top : top + height, left : left + width]
    expected = np.empty((16, 16, 1), np.uint8)
    RESIZES["antialias"](box, expected)
    taken = cropping.take(np.array([0]), epoch=2)[0]
    # Without the compiled part torch resizes, which rounds otherwise than Pillow.
    allowed = 0 if has_compiled_part() else 1
    assert np.abs(taken.astype(int) - expected).max() <= allowed


def test_random_boxes_are_not_cached(cropping: SplitImages) -> None:
    """A box of one epoch is of no use to another."""
    assert not cropping.is_cached
    assert not (cropping.root / STATE / "decoded").exists()


@pytest.mark.parametrize("loading", [CACHED, ON_DEMAND], ids=["cached", "on demand"])
def test_a_batch_can_be_put_into_memory_of_the_caller(
    loading: LoadingParams, tmp_path: Path
) -> None:
    """`out` is filled and returned."""
    make_shards(tmp_path)
    images = open_split(tmp_path, "val", input_shape=(3, 20, 20), loading=loading)
    some, out = np.array([5, 0, 5]), np.zeros((3, 20, 20, 3), np.uint8)
    assert images.take(some, out=out) is out
    assert np.array_equal(out, images.take(some))


def test_a_cache_of_other_pixels_is_not_used(tmp_path: Path) -> None:
    """Another kernel, another size or another index: each is decoded anew."""
    make_shards(tmp_path)
    for shape, resize in (
        ((1, 20, 20), "antialias"),
        ((1, 8, 8), "antialias"),
        ((1, 8, 8), "linear"),
    ):
        loading = CACHED.model_copy(update={"resize": resize})
        cached = open_split(tmp_path, "val", input_shape=shape, loading=loading)
        loading = ON_DEMAND.model_copy(update={"resize": resize})
        decoded = open_split(tmp_path, "val", input_shape=shape, loading=loading)
        assert np.array_equal(cached.take(np.arange(30)), decoded.take(np.arange(30)))
    assert len(list((tmp_path / STATE / "decoded").glob("*.rows.npy"))) == 3


def test_an_image_is_described_with_its_shard(tmp_path: Path) -> None:
    """Messages name the key and the file."""
    make_shards(tmp_path)
    images = open_split(tmp_path, "val", input_shape=(1, 12, 12), loading=ON_DEMAND)
    assert images.describe(0) == "'val/dark/0000' in data/shards/val/val-000000.tar"


def test_without_the_compiled_part_pixels_differ_by_a_level(tmp_path: Path) -> None:
    """Torch antialiases then; training sees the same to within one level of 255."""
    make_shards(tmp_path, size=50)
    everything = np.arange(60)
    shape = (3, 20, 20)
    found = open_split(tmp_path, "train", input_shape=shape, loading=ON_DEMAND).take(everything)
    with in_pure_python():
        pure = open_split(tmp_path, "train", input_shape=shape, loading=ON_DEMAND).take(everything)
    assert np.abs(found.astype(int) - pure).max() <= 1


def test_a_cut_shard_is_named(tmp_path: Path) -> None:
    """A shard that ends too early is an IntegrityError that names it."""
    make_shards(tmp_path)
    shard = tmp_path / DATA / "shards/test/test-000000.tar"
    shard.write_bytes(shard.read_bytes()[:20_000])
    with pytest.raises(IntegrityError, match=r"test-000000\.tar ends before"):
        open_split(tmp_path, "test", input_shape=(1, 12, 12), loading=CACHED)


def make_damaged(root: Path) -> None:
    """Shards in which the first image of test begins with zeros."""
    make_shards(root)
    shard = root / DATA / "shards/test/test-000000.tar"
    content = bytearray(shard.read_bytes())
    content[512:700] = bytes(188)
    shard.write_bytes(content)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    """An image whose bytes were overwritten is an IntegrityError with its key."""
    make_damaged(tmp_path)
    with pytest.raises(IntegrityError, match="image 'test/dark/0000' cannot be decoded"):
        open_split(tmp_path, "test", input_shape=(1, 12, 12), loading=CACHED)


def test_an_image_is_named_that_has_no_size_to_draw_a_box_in(tmp_path: Path) -> None:
    """With random boxes, too, an image whose bytes were overwritten is named by its key."""
    make_damaged(tmp_path)
    crop = RandomResizedCrop((0.5, 1), (1, 1), seed=0)
    images = open_split(tmp_path, "test", input_shape=(1, 12, 12), loading=ON_DEMAND, crop=crop)
    with pytest.raises(IntegrityError, match="image 'test/dark/0000' cannot be decoded"):
        images.take(np.arange(len(images)), epoch=0)


def test_missing_shards_say_what_to_do(tmp_path: Path) -> None:
    """Without an index the error says which command makes it."""
    with pytest.raises(IntegrityError, match="dvc repro"):
        open_split(tmp_path, "val", input_shape=(1, 12, 12), loading=CACHED)
