"""Facts about augmentation: every operation, and policies made of them."""

import numpy as np
import pytest

from imagemill.augment import OPERATIONS, Policy, compile_policy
from imagemill.augment.automatic import AUGMIX, RAND, TRIVIAL_WIDE
from imagemill.augment.policy import AUTOMATIC
from imagemill.augment.replay import replayed
from imagemill.errors import ParamsError, UnknownNameError
from imagemill.params import OperationParams
from imagemill.randomness import key_hashes

KEYS = [f"k{number}" for number in range(40)]
SIZE = (18, 24)
# What the automatic policies need beside their probability.
KNOBS = {
    "trivial_augment": {},
    "rand_augment": {"count": 2, "magnitude": 15},
    "augmix": {"width": 3, "depth": 3, "severity": 3, "alpha": 1.0},
}
NAMES = (*OPERATIONS, *AUTOMATIC)


def images(count: int = 40, height: int = 18, width: int = 24, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def policy(*operations: OperationParams, seed: int = 0) -> Policy:
    return compile_policy(operations, seed=seed, online=True)


def example(name: str, probability: float = 1.0) -> OperationParams:
    """An operation in the upper half of its limits, not above 1.5, or an automatic policy."""
    if name in KNOBS:
        return OperationParams(operation=name, probability=probability, **KNOBS[name])
    operation = OPERATIONS[name]
    if not operation.strengths:
        return OperationParams(operation=name, probability=probability)
    low, high = operation.limits
    return OperationParams(
        operation=name,
        probability=probability,
        range=((low + high) / 2 if high <= 1 else 1.1, min(high, 1.5)),
    )


def applied(
    name: str, strengths: list[float], units: list[float], pixels: np.ndarray
) -> np.ndarray:
    count, changed = len(pixels), np.empty_like(pixels)
    OPERATIONS[name].apply(
        pixels,
        np.tile(strengths, (count, 1)).reshape(count, -1),
        np.tile(units, (count, 1)).reshape(count, -1),
        changed,
    )
    return changed


# Every operation and every automatic policy ----------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_operations_keep_shape_and_type(name: str, channels: int) -> None:
    """Each returns uint8 images of the shape it was given."""
    before = images(channels=channels)
    after = policy(example(name)).apply(before, key_hashes(KEYS), epoch=0)
    assert (after.shape, after.dtype) == (before.shape, np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_operations_leave_their_input_alone(name: str, channels: int) -> None:
    """The images given are not written to."""
    before = images(channels=channels)
    policy(example(name)).apply(before, key_hashes(KEYS), epoch=0)
    assert np.array_equal(before, images(channels=channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_a_sample_gets_the_same_in_any_batch(name: str, channels: int) -> None:
    """What happens to a sample depends on its key, not on its neighbours."""
    chosen, hashes, pixels = policy(example(name, 0.5)), key_hashes(KEYS), images(channels=channels)
    together = chosen.apply(pixels, hashes, epoch=3)
    alone = [chosen.apply(pixels[n : n + 1], hashes[n : n + 1], epoch=3)[0] for n in range(40)]
    assert np.array_equal(together, np.stack(alone))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_the_record_tells_what_was_done(name: str, channels: int) -> None:
    """Doing what `drawn` tells to an image gives the result of `apply`, bit for bit."""
    chosen, hashes, pixels = policy(example(name, 0.7)), key_hashes(KEYS), images(channels=channels)
    records = chosen.drawn(hashes, epoch=2, size=SIZE)
    again = [replayed(image, drawn) for image, drawn in zip(pixels, records, strict=True)]
    assert np.array_equal(chosen.apply(pixels, hashes, epoch=2), np.stack(again))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2)])
@pytest.mark.parametrize("name", NAMES)
def test_the_tiniest_images_are_taken(name: str, size: tuple[int, int]) -> None:
    """One pixel, one row, one column: nothing fails and the shape stays."""
    for channels in (1, 3):
        before = images(5, *size, channels)
        after = policy(example(name)).apply(before, key_hashes(KEYS[:5]), epoch=0)
        assert after.shape == before.shape


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].strengths])
def test_the_limits_are_taken(name: str) -> None:
    """The least and the greatest strength, with the least and nearly the greatest draw."""
    operation = OPERATIONS[name]
    for strength in operation.limits:
        for unit in (0.0, 1 - 2.0**-53):
            drawn = [strength] * operation.strengths, [unit] * operation.units
            assert applied(name, *drawn, images()).shape == images().shape


@pytest.mark.parametrize("name", NAMES)
def test_a_chance_of_zero_changes_nothing(name: str) -> None:
    """Probability 0: the images come back as they are, and the record is empty."""
    chosen, hashes = policy(example(name, 0.0)), key_hashes(KEYS)
    assert np.array_equal(chosen.apply(images(), hashes, epoch=0), images())
    assert chosen.drawn(hashes, epoch=0, size=SIZE) == [[]] * 40


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_chance_is_kept(name: str) -> None:
    """With probability 0.25, about a quarter of 4,000 samples are hit (5 standard deviations)."""
    hashes = key_hashes([f"k{number}" for number in range(4000)])
    records = policy(example(name, probability=0.25)).drawn(hashes, epoch=0, size=SIZE)
    hit = sum(map(bool, records))
    assert abs(hit - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_something_happens(name: str) -> None:
    """With probability 1 nearly every noisy picture of weak contrast changes."""
    before = images() // 2 + 20
    after = policy(example(name)).apply(before, key_hashes(KEYS), epoch=0)
    changed = (after != before).any(axis=(1, 2, 3))
    # Automatic policies may draw nothing, or an operation that finds nothing to do.
    assert changed.mean() > (0.6 if name in AUTOMATIC else 0.95)


def test_alternating_halves_change_places() -> None:
    """What is flipped in one epoch is not in the next, and everything else is; about half each."""
    flip = OperationParams(operation="flip_horizontal", probability=0.5, alternate=True)
    chosen, hashes = policy(flip), key_hashes([f"k{number}" for number in range(4000)])
    hit = [[bool(drawn) for drawn in chosen.drawn(hashes, epoch=n, size=SIZE)] for n in range(3)]
    assert abs(sum(hit[0]) - 2000) < 5 * (4000 * 0.25) ** 0.5
    assert hit[1] == [not flipped for flipped in hit[0]]
    assert hit[2] == hit[0]
    before, hashes = images(), key_hashes(KEYS)
    first, second = (chosen.apply(before, hashes, epoch=epoch) for epoch in (0, 1))
    assert np.array_equal(second, first[:, :, ::-1])


# Single operations -----------------------------------------------------------------------------


def test_flips_mirror() -> None:
    """The flips reverse columns and rows."""
    before = images()
    assert np.array_equal(applied("flip_horizontal", [], [], before), before[:, :, ::-1])
    assert np.array_equal(applied("flip_vertical", [], [], before), before[:, ::-1])


def test_translate_moves_by_whole_pixels() -> None:
    """A third of 9 rows down and a quarter of 12 columns left, the rest mirrored in."""
    before = images(height=9, width=12)
    after = applied("translate", [1 / 3, -1 / 4], [], before)
    assert np.array_equal(after[:, 3:, :9], before[:, :6, 3:])
    assert np.array_equal(after[:, 0, :9], before[:, 3, 3:])


def test_a_quarter_turn_is_exact() -> None:
    """90 degrees on a square is numpy's rot90."""
    before = images(height=9, width=9)
    assert np.array_equal(applied("rotate", [90.0], [], before), np.rot90(before, axes=(1, 2)))


def test_scale_by_two_shows_the_middle() -> None:
    """At factor 2 the centre stays and every second pixel is an original one."""
    before = images(height=9, width=9)
    assert np.array_equal(applied("scale", [2.0], [], before)[:, ::2, ::2], before[:, 2:7, 2:7])


def test_a_full_crop_changes_nothing() -> None:
    """A window of the whole side is the image itself, wherever it is put."""
    assert np.array_equal(applied("crop", [1.0], [0.7, 0.2], images()), images())


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "sharpness"])
def test_a_factor_of_one_changes_nothing(name: str) -> None:
    """Enhancements blend with the image itself."""
    assert np.array_equal(applied(name, [1.0], [], images()), images())


def test_a_turn_of_no_hue_stays_near() -> None:
    """Hue and saturation are held in 256 steps: a turn of nothing moves values by 10 at most."""
    gap = applied("hue", [0.0], [], images()).astype(int) - images()
    assert abs(gap).max() <= 10


def test_erasing_paints_a_rectangle_of_the_share() -> None:
    """A quarter of 40 x 40 pixels takes one colour, the rest stays."""
    before = images(height=40, width=40)
    after = applied("erasing", [0.25], [0.5, 0.3, 0.6], before)
    erased_BHW = (after != before).any(axis=3)
    assert 0.24 < erased_BHW.mean() < 0.26
    assert len(np.unique(after[0][erased_BHW[0]], axis=0)) == 1


# Automatic policies ----------------------------------------------------------------------------


@pytest.mark.parametrize("space", [TRIVIAL_WIDE, RAND, AUGMIX], ids=["wide", "rand", "augmix"])
def test_spaces_stay_within_limits(space: dict[str, tuple[str, object]]) -> None:
    """At the greatest level, either sign, every operation of a space gets a strength it takes."""
    for name, strengths in space.values():
        for sign in (-1.0, 1.0):
            drawn = strengths(np.ones(1), np.full(1, sign), (8, 300))
            least, most = OPERATIONS[name].limits
            used = drawn[: OPERATIONS[name].strengths]
            assert all(least - 1e-12 <= float(np.max(value)) <= most + 1e-12 for value in used)


def test_trivial_augment_draws_every_operation_evenly() -> None:
    """14 choices, the empty one among them: 500 of 7,000 samples each, within 6 deviations."""
    hashes = key_hashes([f"k{number}" for number in range(7000)])
    records = policy(example("trivial_augment")).drawn(hashes, epoch=0, size=(32, 32))
    counts = {name: 0 for name, _ in TRIVIAL_WIDE.values()} | {"none": 0}
    for record in records:
        counts[record[0].operation if record else "none"] += 1
    doubled = {"shear", "translate"}
    for name, count in counts.items():
        expected = 500 * (2 if name in doubled else 1)
        assert abs(count - expected) < 6 * expected**0.5, name


def test_rand_augment_draws_as_many_as_asked() -> None:
    """Never more than `count` operations, and with three of 14 choices mostly three."""
    chosen = OperationParams(operation="rand_augment", probability=1, count=3, magnitude=9)
    records = policy(chosen).drawn(key_hashes(KEYS), epoch=0, size=SIZE)
    lengths = [len(record) for record in records]
    assert max(lengths) == 3
    assert np.mean(lengths) > 2.4


def test_augmix_shares_sum_to_one() -> None:
    """The image's own share and those of the chains; each chain has one to three operations."""
    records = policy(example("augmix")).drawn(key_hashes(KEYS), epoch=0, size=SIZE)
    for (mixed,) in records:
        assert sum(mixed.strengths) == pytest.approx(1)
        assert {len(chain) for chain in mixed.chains} <= {1, 2, 3}
    assert {len(chain) for (mixed,) in records for chain in mixed.chains} == {1, 2, 3}


# Policies --------------------------------------------------------------------------------------


def test_epochs_draw_anew() -> None:
    """Another epoch, other draws; the same epoch, the same."""
    chosen = policy(example("rotate"))
    hashes = key_hashes(KEYS)
    first, again, next_one = (chosen.apply(images(), hashes, epoch=epoch) for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, next_one)


def test_seeds_draw_anew() -> None:
    """Another seed, other draws."""
    one, other = (policy(example("rotate"), seed=seed) for seed in (0, 1))
    hashes = key_hashes(KEYS)
    assert not np.array_equal(
        one.apply(images(), hashes, epoch=0), other.apply(images(), hashes, epoch=0)
    )


def test_draws_do_not_change_from_release_to_release() -> None:
    """What a sample drew in the first release: copies on disk and accuracy figures rest on it."""
    chosen = policy(
        OperationParams(operation="rotate", probability=1.0, range=(-12, 12)),
        OperationParams(operation="crop", probability=0.8, range=(0.7, 1.0)),
    )
    (record,) = chosen.drawn(key_hashes(["k0"]), epoch=5, size=SIZE)
    drawn = [(one.operation, one.strengths, one.positions) for one in record]
    assert drawn == [
        ("rotate", [0.2733595080681077], []),
        ("crop", [0.7831274195422397], [0.12812116140970242, 0.5996158027226764]),
    ]


def test_entries_draw_for_themselves() -> None:
    """The same operation twice in a list turns twice by different angles."""
    (record,) = policy(example("rotate"), example("rotate")).drawn(
        key_hashes(KEYS[:1]), epoch=0, size=SIZE
    )
    assert record[0].strengths != record[1].strengths


def test_an_unknown_operation_names_the_nearest() -> None:
    """A misspelt operation is answered with the right one."""
    with pytest.raises(UnknownNameError, match="did you mean 'rotate'"):
        policy(OperationParams(operation="rotation", probability=1))


@pytest.mark.parametrize(
    ("operation", "knobs", "words"),
    [
        ("rotate", {}, "needs range beside its probability, got nothing"),
        ("flip_vertical", {"range": (0.0, 1.0)}, "needs nothing beside its probability, got range"),
        ("crop", {"range": (0.5, 1.5)}, r"must lie in \[0.05, 1\] \(fraction of the side\)"),
        ("mixup", {"range": (0.5, 1.5)}, "needs alpha beside its probability, got range"),
        ("rand_augment", {"count": 2}, "needs count, magnitude beside its probability, got count"),
        ("random_resized_crop", {"range": (0.0, 1.0), "ratio": (0.5, 2.0)}, "fraction of the area"),
    ],
)
def test_senseless_knobs_are_refused(
    operation: str, knobs: dict[str, tuple[float, float]], words: str
) -> None:
    """A missing, superfluous or impossible value is a ParamsError that says what is needed."""
    with pytest.raises(ParamsError, match=f"{operation}.*{words}"):
        policy(OperationParams(operation=operation, probability=1, **knobs))


MIXUP = OperationParams(operation="mixup", probability=1, alpha=0.2)
FLIP = OperationParams(operation="flip_vertical", probability=1)
WINDOW = OperationParams(
    operation="random_resized_crop", probability=1, range=(0.3, 1), ratio=(0.75, 1.33)
)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([FLIP, WINDOW], "must come first"),
        ([WINDOW.model_copy(update={"probability": 0.5})], "with probability 1"),
        ([MIXUP, FLIP], "'flip_vertical' comes after 'mixup'"),
        ([MIXUP, MIXUP], "'mixup' stands twice"),
        ([MIXUP.model_copy(update={"alternate": True})], "alternate is for what training does"),
    ],
)
def test_entries_stand_where_they_can(entries: list[OperationParams], words: str) -> None:
    """Windows come first, mixing last and once."""
    with pytest.raises(ParamsError, match=words):
        policy(*entries)


@pytest.mark.parametrize("entry", [MIXUP, WINDOW], ids=lambda entry: entry.operation)
def test_batch_operations_are_refused_offline(entry: OperationParams) -> None:
    """Copies on disk are of one image each: there is no batch and no loader."""
    with pytest.raises(ParamsError, match=r"move it from augment\.offline to augment\.online"):
        compile_policy([entry], seed=0, online=False)


# RandomResizedCrop -----------------------------------------------------------------------------


def windows(heights: object, widths: object, count: int = 2000, epoch: int = 0) -> np.ndarray:
    crop = policy(WINDOW).crop
    assert crop is not None
    hashes = key_hashes([f"k{number}" for number in range(count)])
    full = np.broadcast_to(heights, count), np.broadcast_to(widths, count)
    return crop.boxes(*full, hashes, epoch=epoch)


def test_windows_lie_inside_and_keep_their_limits() -> None:
    """Area and ratio stay within params (up to rounding), and no window leaves the image."""
    top, left, height, width = windows(300, 400).T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height <= 300).all() and (left + width <= 400).all()
    area, ratio = height * width / 120_000, width / height
    assert area.min() > 0.29 and area.max() <= 1
    assert ratio.min() > 0.74 and ratio.max() < 1.35


def test_windows_of_odd_images_lie_in_the_middle() -> None:
    """Where no allowed ratio fits, the window is the largest in the middle that has one."""
    assert (windows(10, 1000) == [0, 493, 10, 13]).all()
    assert (windows(1, 1) == [0, 0, 1, 1]).all()


def test_windows_belong_to_their_samples() -> None:
    """A sample's window is the same alone and among others; another epoch, another window."""
    together = windows(300, 400)
    crop, hashes = policy(WINDOW).crop, key_hashes(["k7"])
    assert (crop.boxes(np.array([300]), np.array([400]), hashes, epoch=0) == together[7]).all()
    assert (windows(300, 400, epoch=1) != together).any(axis=1).mean() > 0.99


def test_windows_are_left_to_the_loader() -> None:
    """A policy of a window alone changes no pixel."""
    chosen = policy(WINDOW)
    assert np.array_equal(chosen.apply(images(), key_hashes(KEYS), epoch=0), images())
