"""Facts about MixUp and CutMix: shares, partners, and the same losses on any number of ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import make_shards

from imagemill.augment import Policy, compile_policy
from imagemill.augment.mixing import MIXINGS, with_neighbour
from imagemill.loading import SplitImages, open_split, rank_slice
from imagemill.models import build_model
from imagemill.params import OperationParams, Params, parse_params, read_yaml
from imagemill.randomness import key_hashes
from imagemill.records import Architecture
from imagemill.train.feeding import Fed, fed, needed
from imagemill.train.losses import LOSSES, Targets, Teacher

REPOSITORY = Path(__file__).resolve().parent.parent
COUNT, CLASSES = 23, 5
HASHES = key_hashes([f"k{number}" for number in range(COUNT)])
TARGETS = np.arange(COUNT) % CLASSES
SHIFT = OperationParams(operation="translate", probability=1, range=(-0.2, 0.2))


def entry(name: str, probability: float = 1.0, alpha: float = 1.0) -> OperationParams:
    return OperationParams(operation=name, probability=probability, alpha=alpha)


def policy(*operations: OperationParams) -> Policy:
    return compile_policy(operations, seed=0, online=True)


def pixels(count: int = COUNT, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 16, 20, channels), np.uint8)


def fed_to(chosen: Policy, rank: int, world: int, batch_G: np.ndarray) -> Fed:
    """What one rank computes on."""
    positions_R = needed(chosen, batch_G, rank_slice(batch_G, rank=rank, world=world))
    return fed(chosen, pixels()[positions_R], HASHES[positions_R], TARGETS[positions_R], epoch=2)


def batch() -> np.ndarray:
    """A global batch in some order."""
    return np.random.default_rng(1).permutation(COUNT)


# Mixing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_mixup_blends_with_the_neighbour(channels: int) -> None:
    """Every pixel is the weighted mean of both, rounded to the nearest value."""
    own, other = pixels(channels=channels), pixels(channels=channels)[::-1]
    mixing = policy(entry("mixup")).mixing
    mixed, shares = mixing.mix(own, other, HASHES, epoch=0)
    weights = shares[:, None, None, None]
    assert abs(mixed - (weights * own + (1 - weights) * other)).max() <= 0.5 + 1e-4
    assert len(np.unique(shares)) == COUNT


@pytest.mark.parametrize("channels", [1, 3])
def test_cutmix_pastes_the_area_its_share_says(channels: int) -> None:
    """Each pixel is one image's or the other's, and the share is counted in pixels."""
    own = np.zeros((COUNT, 16, 20, channels), np.uint8)
    mixed, shares = policy(entry("cutmix")).mixing.mix(own, own + 1, HASHES, epoch=0)
    assert np.allclose(1 - mixed.mean(axis=(1, 2, 3)), shares)
    assert shares.std() > 0.05
    for image in mixed[..., 0]:
        rows, columns = np.nonzero(image)
        if len(rows):
            assert image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()


@pytest.mark.parametrize("alpha", [0.2, 1.0, 8.0])
def test_shares_follow_the_beta_distribution(alpha: float) -> None:
    """4,000 shares: mean 1/2, and the standard deviation of Beta(alpha, alpha) within 5 %."""
    hashes = key_hashes([f"k{number}" for number in range(4000)])
    images = np.zeros((4000, 1, 1, 1), np.uint8)
    shares = policy(entry("mixup", alpha=alpha)).mixing.mix(images, images, hashes, epoch=0)[1]
    assert shares.std() == pytest.approx((1 / (4 * (2 * alpha + 1))) ** 0.5, rel=0.05)
    assert shares.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("name", MIXINGS)
def test_mixing_leaves_its_input_alone(name: str) -> None:
    """Neither the images nor their neighbours are written to."""
    own, other = pixels(), pixels()[::-1].copy()
    policy(entry(name)).mixing.mix(own, other, HASHES, epoch=0)
    assert np.array_equal(own, pixels())
    assert np.array_equal(other, pixels()[::-1])


@pytest.mark.parametrize("name", MIXINGS)
def test_a_chance_of_zero_mixes_nothing(name: str) -> None:
    """Images as they are, and targets all their own."""
    mixed, shares = policy(entry(name, 0.0)).mixing.mix(pixels(), pixels(), HASHES, epoch=0)
    assert np.array_equal(mixed, pixels())
    assert (shares == 1).all()


def test_a_sample_is_mixed_once() -> None:
    """MixUp for half of the samples and CutMix for the rest: no sample gets both."""
    both = policy(entry("mixup", 0.5), entry("cutmix"))
    own = np.zeros((COUNT, 16, 20, 1), np.uint8)
    mixed = both.mixing.mix(own, own + 200, HASHES, epoch=0).images_BHWC
    pasted = [set(np.unique(image)) <= {0, 200} for image in mixed]
    blended = [len(np.unique(image)) == 1 for image in mixed]
    assert 5 < sum(blended) < 18
    assert all(one or other for one, other in zip(pasted, blended, strict=True))


def test_epochs_mix_anew() -> None:
    """Another epoch, other shares."""
    mixing = policy(entry("mixup")).mixing
    first, second = (mixing.mix(pixels(), pixels(), HASHES, epoch=e).shares_B for e in (0, 1))
    assert (first != second).all()


# Ranks -------------------------------------------------------------------------------------------


def test_the_neighbour_is_the_next_of_the_global_batch() -> None:
    """The sample after a rank's slice comes behind it; after the last comes the first."""
    batch_G = np.array([7, 3, 9, 1, 4])
    assert with_neighbour(batch_G, batch_G[:2]).tolist() == [7, 3, 9]
    assert with_neighbour(batch_G, batch_G[2:]).tolist() == [9, 1, 4, 7]
    assert with_neighbour(batch_G[:1], batch_G[:1]).tolist() == [7, 7]


def test_without_mixing_no_more_is_decoded() -> None:
    """A rank needs its own slice only."""
    batch_G = batch()
    assert np.array_equal(needed(policy(SHIFT), batch_G, batch_G[3:9]), batch_G[3:9])


@pytest.mark.parametrize("world", [1, 2, 3, 7, COUNT])
def test_any_number_of_ranks_is_fed_the_same(world: int) -> None:
    """The slices of all ranks together are the global batch: images, both classes, shares."""
    chosen = policy(SHIFT, entry("mixup", 0.5, 0.4), entry("cutmix", 0.7))
    whole = fed_to(chosen, 0, 1, batch())
    parts = [fed_to(chosen, rank, world, batch()) for rank in range(world)]
    for name in Fed._fields:
        together = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(together, getattr(whole, name)), name


def test_the_partner_is_augmented_as_it_is_for_itself() -> None:
    """What is blended in is the neighbour's own augmented image, not another draw of it."""
    mixed = fed_to(policy(SHIFT, entry("mixup")), 0, 1, batch())
    plain = fed_to(policy(SHIFT), 0, 1, batch())
    weights = mixed.shares_B[:, None, None, None]
    expected = weights * plain.images_BHWC + (1 - weights) * np.roll(plain.images_BHWC, -1, axis=0)
    assert abs(mixed.images_BHWC - expected).max() <= 0.5 + 1e-4
    assert np.array_equal(mixed.others_B, np.roll(plain.own_B, -1))


# Losses ------------------------------------------------------------------------------------------

MIXED = Targets(torch.tensor([0, 1, 2]), torch.tensor([1, 1, 0]), torch.tensor([0.75, 0.2, 0.25]))


def test_targets_share_their_mass() -> None:
    """Three quarters of class 0 and one of class 1; a pair of one class is that class."""
    expected = [[0.75, 0.25, 0, 0], [0, 1, 0, 0], [0.75, 0, 0.25, 0]]
    assert torch.allclose(MIXED.for_loss(4), torch.tensor(expected))


def test_accuracy_counts_the_dominant_class() -> None:
    """The class with the larger share; class ids stay what they are."""
    assert MIXED.dominant().tolist() == [0, 1, 0]
    assert Targets(torch.tensor([2, 0])).dominant().tolist() == [2, 0]


@pytest.mark.parametrize(("loss", "smoothing"), [("cross_entropy", 0.1), ("cross_entropy", 0.0)])
def test_cross_entropy_is_linear_in_the_target(loss: str, smoothing: float) -> None:
    """A mixed target costs its share of either class's loss, smoothed or not."""
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    mixed = LOSSES[loss](logits, MIXED.for_loss(4), smoothing)
    own, other = (LOSSES[loss](logits, ids, smoothing) for ids in (MIXED.own_B, MIXED.others_B))
    assert torch.allclose(mixed, MIXED.shares_B * own + (1 - MIXED.shares_B) * other, atol=1e-6)


def test_squared_error_is_the_distance_to_the_shares() -> None:
    """Equal logits over 4 classes against shares of 0.75 and 0.25."""
    losses = LOSSES["mse"](torch.zeros(3, 4), MIXED.for_loss(4), 0.0)
    assert losses[0].item() == pytest.approx((0.5**2 + 0 + 2 * 0.25**2) / 4)


@pytest.mark.parametrize("loss", LOSSES)
def test_whole_shares_cost_what_class_ids_cost(loss: str) -> None:
    """A share of 1 is the class itself."""
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    whole = Targets(MIXED.own_B, MIXED.others_B, torch.ones(3))
    expected = LOSSES[loss](logits, MIXED.own_B, 0.0)
    assert torch.allclose(LOSSES[loss](logits, whole.for_loss(4), 0.0), expected, atol=1e-6)


# Training ----------------------------------------------------------------------------------------


def settings(**train: object) -> Params:
    """Tiny pictures, mixed both ways; test_train runs the like in real processes."""
    document = read_yaml(REPOSITORY / "params.yaml")
    document["train"] |= {
        "model": "seed_minimal",
        "input_size": 12,
        "epochs": 3,
        "batch_size": 16,
        "precision": "float32",
        **train,
    }
    document["augment"]["online"] = [
        {"operation": "translate", "probability": 1, "range": [-0.1, 0.1]},
        {"operation": "mixup", "probability": 0.5, "alpha": 0.4},
        {"operation": "cutmix", "probability": 0.5, "alpha": 1.0},
    ]
    return parse_params(document, where="test")


def train_split(root: Path) -> SplitImages:
    return open_split(root, "train", input_shape=(1, 12, 12), loading=settings().loading)


def test_ranks_have_the_losses_of_one(tmp_path: Path) -> None:
    """The sum of the ranks' losses is that of one process, for a student and its teacher too."""
    make_shards(tmp_path)
    images, params = train_split(tmp_path), settings()
    chosen = compile_policy(params.augment.online, seed=0, online=True)
    torch.manual_seed(0)
    architecture = Architecture(name="seed_minimal", arguments={"width": 1.0})
    student, teacher = (
        build_model(architecture, input_shape=(1, 12, 12), num_classes=3, mean=[0.5], std=[0.3])
        for _ in range(2)
    )
    batch_G = np.random.default_rng(0).permutation(60)[:17]
    sums = {}
    for world in (1, 2, 3):
        for rank in range(world):
            positions_R = needed(chosen, batch_G, rank_slice(batch_G, rank=rank, world=world))
            made = fed(
                chosen,
                images.take(positions_R),
                images.hashes_N[positions_R],
                images.targets_N[positions_R],
                epoch=1,
            )
            inputs = torch.from_numpy(made.images_BHWC).permute(0, 3, 1, 2).float() / 255
            targets = Targets(
                torch.from_numpy(made.own_B),
                torch.from_numpy(made.others_B),
                torch.from_numpy(made.shares_B).float(),
            )
            with torch.no_grad():
                logits = student(inputs)
                losses = LOSSES["cross_entropy"](logits, targets.for_loss(3), 0.1)
                losses = Teacher(teacher, 3, 0.5).blend(losses, logits, inputs)
            sums[world] = sums.get(world, 0.0) + float(losses.sum())
    # 17 float32 losses added in another order.
    assert sums[2] == pytest.approx(sums[1], rel=1e-6)
    assert sums[3] == pytest.approx(sums[1], rel=1e-6)
