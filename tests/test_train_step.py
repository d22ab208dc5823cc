"""Facts about one optimiser step and what stands around it, against plain arithmetic."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import make_shards
from test_train import REPOSITORY, SHAPE, fresh, settings, train_split, trained, weights_of

from imagemill.augment import compile_policy
from imagemill.decoding.resizing import antialias
from imagemill.errors import ParamsError, TrainingError
from imagemill.loading import open_split
from imagemill.params import TrainParams, parse_params, read_yaml
from imagemill.records import SHARD_MANIFEST, Architecture, ShardManifest
from imagemill.train.best import Best
from imagemill.train.draws import seed_step
from imagemill.train.ema import Ema
from imagemill.train.feeding import resized
from imagemill.train.initial import initial_model
from imagemill.train.job import base_architecture
from imagemill.train.judge import _turns, top1
from imagemill.train.loop import fit
from imagemill.train.losses import Targets
from imagemill.train.machine import choose_machine
from imagemill.train.ranks import ALONE, Ranks
from imagemill.train.schedules import SCHEDULES, rate_share
from imagemill.train.step import Stepper
from imagemill.train.strategies import Single

NOTHING = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    make_shards(root)
    return root


def batch() -> tuple[torch.Tensor, Targets]:
    torch.manual_seed(3)
    return torch.rand(12, *SHAPE), Targets(torch.arange(12) % 3)


def stepper(model: torch.nn.Module, **train: object) -> Stepper:
    told = settings(**{"optimizer": "sgd", "momentum": 0, "weight_decay": 0, **train}).train
    machine = choose_machine(told)
    return Stepper(model.train(), Single(told, ALONE, machine), told, machine, None)


def after_a_step(**train: object) -> torch.Tensor:
    """The weights of a fresh net after one step of rate 0.1."""
    model, (images, targets) = fresh(), batch()
    stepper(model, **train).take(images, targets, share=1 / 12, fewest=12, rate=0.1)
    return weights_of(model)


@pytest.mark.parametrize("parts", [2, 5, 12, 100])
def test_a_batch_in_parts_gives_the_same_step(parts: int) -> None:
    """Accumulated gradients are those of the whole batch, but for the order of float32 sums."""
    assert torch.allclose(after_a_step(accumulate=parts), after_a_step(), atol=1e-6)


def test_mixed_targets_are_split_with_their_images() -> None:
    """Parts of mixed targets hold the same classes and shares as the whole."""
    own, others, shares = torch.arange(5), torch.arange(5).flip(0), torch.linspace(0, 1, 5)
    parts = Targets(own, others, shares).split(2)
    whole = Targets(own, others, shares).for_loss(5)
    assert torch.equal(torch.cat([part.for_loss(5) for part in parts]), whole)


def test_a_clipped_step_is_as_long_as_allowed() -> None:
    """With plain SGD a step has the length rate x clip_norm when the gradient is longer."""
    moved = (after_a_step(clip_norm=1e-3) - weights_of(fresh())).norm()
    assert moved.item() == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_l1_pulls_every_weight_towards_zero() -> None:
    """L1 adds its weight times the sign to the gradient of matrices and filters, not of biases."""
    model = fresh()
    expected = [
        -0.1 * 0.5 * parameter.detach().sign() * (parameter.ndim > 1)
        for parameter in model.parameters()
    ]
    plain, pulled = fresh(), fresh()
    images, targets = batch()
    stepper(plain).take(images, targets, share=1 / 12, fewest=12, rate=0.1)
    stepper(pulled, l1=0.5).take(images, targets, share=1 / 12, fewest=12, rate=0.1)
    differences = [a - b for a, b in zip(pulled.parameters(), plain.parameters(), strict=True)]
    for difference, wanted in zip(differences, expected, strict=True):
        assert torch.allclose(difference, wanted, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "muon"])
def test_norms_and_biases_can_decay_by_themselves(optimizer: str) -> None:
    """With no decay of their own vectors move as if nothing decayed, all else as if all did."""

    def moved(**decay: float) -> list[torch.Tensor]:
        model, (images, targets) = fresh(), batch()
        take = stepper(model, **{"optimizer": optimizer, "momentum": 0.5, **decay}).take
        take(images, targets, share=1 / 12, fewest=12, rate=0.1)
        return list(model.parameters())

    none, all_decay = moved(weight_decay=0), moved(weight_decay=0.1)
    apart = moved(weight_decay=0.1, norm_weight_decay=0)
    for kept, decayed, mixed in zip(none, all_decay, apart, strict=True):
        assert torch.equal(mixed, kept if mixed.ndim == 1 else decayed)
    assert any(not torch.equal(*pair) for pair in zip(none, all_decay, strict=True))
    assert any(not torch.equal(*pair) for pair in zip(apart, all_decay, strict=True))


def test_float16_scales_its_loss_and_learns(shards: Path) -> None:
    """In float16 three brightnesses are told apart on val, with a scale that is in force."""
    params = settings(precision="float16", epochs=10, learning_rate=0.1)
    model = fresh()
    assert stepper(fresh(), precision="float16").scaler.get_scale() > 1
    trained(model, train_split(shards), params)
    val = open_split(shards, "val", input_shape=SHAPE, loading=params.loading)
    assert top1(model, val, choose_machine(params.train)) >= 0.9


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_the_step() -> None:
    """torch.compile changes the weights by no more than float32's rounding."""
    assert torch.allclose(after_a_step(compile=True), after_a_step(), atol=1e-5)


# Averages ------------------------------------------------------------------------------------


def test_the_average_follows_its_recurrence() -> None:
    """a <- d a + (1 - d) w at every second step, with d warming up from 2/11."""
    model = fresh()
    told = settings(ema={"decay": 0.9, "every": 2}).train
    assert told.ema is not None
    ema, name = Ema(model, told.ema), "1.head.weight"
    expected = model.state_dict()[name].clone()
    for step in range(1, 9):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * step)
        ema.update(model, step)
        if step % 2 == 0:
            decay = min(0.9, (1 + step // 2) / (10 + step // 2))
            expected = decay * expected + (1 - decay) * model.state_dict()[name]
    assert torch.allclose(ema.tensors[name], expected, atol=1e-6)


def test_inside_the_block_the_model_is_its_average() -> None:
    """Judging with averaged weights leaves the trained ones as they were."""
    model = fresh()
    told = settings(ema={"decay": 0.9, "every": 1}).train
    assert told.ema is not None
    ema, start = Ema(model, told.ema), weights_of(model).clone()
    with torch.no_grad():
        model[1].head.weight.add_(1)
    changed = weights_of(model).clone()
    with ema.in_place(model):
        assert torch.equal(weights_of(model), start)
    assert torch.equal(weights_of(model), changed)


def test_a_training_with_an_average_resumes_exactly(shards: Path, tmp_path: Path) -> None:
    """Stopped by a low ceiling of steps and resumed, the average is bit for bit that of one run."""
    from test_train import KilledError, killed_at_epoch

    params = settings(ema={"decay": 0.95, "every": 3}, epochs=4, batch_size=4)
    whole, halves = fresh(), fresh()
    trained(whole, train_split(shards), params)
    with pytest.raises(KilledError):
        trained(
            halves,
            train_split(shards),
            params,
            report=killed_at_epoch(2),
            checkpoints=tmp_path / "c",
        )
    trained(halves, train_split(shards), params, checkpoints=tmp_path / "c")
    assert torch.equal(weights_of(halves), weights_of(whole))


# Draws ---------------------------------------------------------------------------------------


def test_draws_belong_to_seed_step_and_rank() -> None:
    """The same triple draws the same numbers; any other one others."""

    def drawn(*where: int) -> float:
        seed_step(*where, NOTHING)
        return torch.rand(()).item()

    triples = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 4096, 0), (2**32 - 1, 10**6, 7)]
    values = [drawn(*triple) for triple in triples]
    assert len(set(values)) == len(values)
    assert [drawn(*triple) for triple in reversed(triples)] == values[::-1]


# Schedules -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_warms_up_and_stays_within_its_peak(name: str) -> None:
    """The rate rises linearly over the first fifth and never leaves 0..1."""
    milestones = [0.5, 0.75] if name == "step" else None
    train = settings(schedule=name, warmup=0.2, milestones=milestones).train
    shares = [rate_share(train, step, 100) for step in range(100)]
    assert shares[:20] == pytest.approx([(step + 0.5) / 20 for step in range(20)])
    assert 0 < min(shares) <= max(shares) <= 1


def test_cosine_is_at_half_its_peak_half_way() -> None:
    """Without warm-up the middle of 101 steps has half the rate."""
    assert rate_share(settings(schedule="cosine", warmup=0).train, 50, 101) == pytest.approx(0.5)


def test_milestones_divide_by_ten() -> None:
    """1, then a tenth, then a hundredth."""
    train = settings(schedule="step", warmup=0, milestones=[0.5, 0.75]).train
    shares = [rate_share(train, step, 100) for step in (49, 50, 74, 75)]
    assert shares == pytest.approx([1, 0.1, 0.1, 0.01])


# Sizes ---------------------------------------------------------------------------------------


def test_sizes_change_at_their_shares() -> None:
    """A size holds from its start to the next one's."""
    train = settings(
        input_size=12, resolutions=[{"start": 0, "size": 8}, {"start": 0.5, "size": 12}]
    ).train
    assert [train.size_at(step, 10) for step in (0, 4, 5, 9)] == [8, 8, 12, 12]


def test_the_net_sees_the_sizes_it_should(shards: Path) -> None:
    """A net that pools globally is fed 8 px images first and 12 px ones at the end."""
    params = settings(
        model="resnet20",
        epochs=2,
        resolutions=[{"start": 0, "size": 8}, {"start": 0.5, "size": 12}],
    )
    model, seen = built(shards, params.train), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    trained(model, train_split(shards), params)
    assert seen == [8] * 4 + [12] * 4


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_those_the_loader_would_make(channels: int) -> None:
    """Resized with the same kernel, to a level; of the same size they are the same."""
    images_BHWC = np.random.default_rng(0).integers(0, 256, (3, 32, 32, channels), np.uint8)
    images_BCHW = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)
    assert resized(images_BCHW, 32) is images_BCHW
    made_BHWC = resized(images_BCHW, 20).permute(0, 2, 3, 1).numpy()
    expected_BHWC = np.empty((3, 20, 20, channels), np.uint8)
    for source_HWC, out_hwC in zip(images_BHWC, expected_BHWC, strict=True):
        antialias(source_HWC, out_hwC)
    assert np.abs(made_BHWC.astype(int) - expected_BHWC).max() <= 1


def test_a_few_steps_of_the_imagenet_recipe(tmp_path: Path) -> None:
    """What it asks for works together: nothing of it has to be changed but the processes."""
    make_shards(tmp_path, size=256, train=6, val=3, test=3)
    document = read_yaml(REPOSITORY / "recipes/imagenet.yaml")
    document["loading"]["workers"] = 0
    document["train"] |= {"strategy": "single", "processes": 1, "threads": 1, "batch_size": 2}
    params = parse_params(document, where="test")
    shape, data = (1, 224, 224), ShardManifest.read(tmp_path / SHARD_MANIFEST)
    crop = compile_policy(params.augment.online, seed=0, online=True).crop
    images = open_split(tmp_path, "train", input_shape=shape, loading=params.loading, crop=crop)
    model = initial_model(base_architecture(params.train), images, data, params.train)
    seen: set[torch.Size] = set()
    model[1].register_forward_pre_hook(lambda net, inputs: seen.add(inputs[0].shape))
    result = fit(
        model,
        images,
        train=params.train,
        augment=params.augment,
        epochs=1,
        learning_rate=params.train.learning_rate,
        teacher=None,
        report=lambda progress: None,
    )
    assert result.steps == 3
    assert seen == {torch.Size((2, 1, 176, 176))}
    assert [account.missing + account.duplicate for account in result.ledger] == [0]


def test_a_net_of_one_size_says_so(shards: Path) -> None:
    """A flattened head and smaller images are refused before training, with nets that could."""
    train = settings(resolutions=[{"start": 0, "size": 8}]).train
    with pytest.raises(ParamsError, match="cannot take images of 8 px"):
        built(shards, train)


def built(root: Path, train: TrainParams) -> torch.nn.Sequential:
    data = ShardManifest.read(root / SHARD_MANIFEST)
    architecture = Architecture(name=train.model, arguments={"width": 1.0})
    return initial_model(architecture, train_split(root), data, train)


# Stopping ------------------------------------------------------------------------------------


def test_patience_is_counted_in_epochs_without_a_gain() -> None:
    """Two epochs that gain less than a point end a training of patience 2."""
    told = settings(early_stopping={"patience": 2, "min_gain": 0.01}).train.early_stopping
    best = Best(told)
    gains = [best.take(value, step) for step, value in enumerate((0.5, 0.6, 0.605, 0.609), start=1)]
    assert gains == [True, True, False, False]
    assert (best.step, best.top1, best.is_over) == (2, 0.6, True)


def test_stopped_early_the_best_epoch_is_kept(shards: Path, tmp_path: Path) -> None:
    """The weights are those of the epoch val liked best, and the epochs after it are few."""
    params = settings(early_stopping={"patience": 2, "min_gain": 0.0}, epochs=50)
    verdicts, seen = iter([0.5, 0.9, 0.7, 0.6]), []

    def judge(model: torch.nn.Module) -> float:
        seen.append(weights_of(model).clone())
        return next(verdicts)

    model = fresh()
    result = trained(model, train_split(shards), params, judge=judge, checkpoints=tmp_path / "c")
    assert (result.steps, result.best_epoch) == (16, 2)
    assert torch.equal(weights_of(model), seen[1])


def test_val_is_looked_at_as_often_as_asked_for(shards: Path) -> None:
    """Every second epoch and after the last: the lines of the others know no top-1."""
    params, lines = settings(validate_every=2, epochs=5), []
    trained(fresh(), train_split(shards), params, report=lines.append, judge=lambda model: 0.5)
    ends = [line for line in lines if line.epoch_loss is not None]
    assert [line.val_top1 for line in ends] == [None, 0.5, None, 0.5, 0.5]


def test_patience_goes_on_after_a_pause(shards: Path, tmp_path: Path) -> None:
    """It counts looks at val, those before a checkpoint too."""
    params = settings(
        validate_every=2,
        epochs=50,
        checkpoint_seconds=1e-6,
        early_stopping={"patience": 2, "min_gain": 0.0},
    )
    verdicts = iter([0.9, 0.7, 0.6])

    def judge(model: torch.nn.Module) -> float:
        return next(verdicts)

    def cut_off(done: int) -> None:
        if done == 18:
            raise KeyboardInterrupt

    images, checkpoints = train_split(shards), tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        trained(fresh(), images, params, judge=judge, checkpoints=checkpoints, beat=cut_off)
    result = trained(fresh(), images, params, judge=judge, checkpoints=checkpoints)
    assert (result.resumed_at, result.steps, result.best_epoch) == (17, 24, 2)


def test_a_loss_above_its_ceiling_names_the_images(shards: Path, tmp_path: Path) -> None:
    """The message names keys of the step, and a file has all of them."""
    with pytest.raises(TrainingError, match=r"images of this step: '.+' and 11 more") as stopped:
        trained(
            fresh(), train_split(shards), settings(max_loss=0.01), checkpoints=tmp_path / "job/c"
        )
    assert "at step 1" in str(stopped.value)
    assert (tmp_path / "job/suspects.json").read_text().count('"') == 2 * 16


# Judging -------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_judging(world: int) -> None:
    """The hits of all ranks together are those of one, and all take the same number of turns."""
    turns = [list(_turns(30, 7, Ranks(rank, world, NOTHING))) for rank in range(world)]
    assert len({len(of_rank) for of_rank in turns}) == 1
    counted = [positions for of_rank in turns for positions, counts in of_rank if counts]
    assert sorted(np.concatenate(counted).tolist()) == list(range(30))


def test_a_batch_of_one_image_is_trained_on() -> None:
    """Where maps are one pixel large a norm has nothing to average: it uses what it has seen."""
    channels, height, width = SHAPE
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(channels, 4, (height, width), bias=False),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    )
    norm = model[1]
    images, targets = batch()
    take = stepper(model).take
    take(images, targets, share=1 / 12, fewest=12, rate=0.1)
    seen, before = norm.running_mean.clone(), weights_of(model)
    loss, *_ = take(images[:1], Targets(torch.tensor([0])), share=1.0, fewest=1, rate=0.1)
    assert torch.isfinite(loss) and torch.isfinite(weights_of(model)).all()
    assert not torch.equal(weights_of(model), before)
    assert torch.equal(norm.running_mean, seen) and norm.training
