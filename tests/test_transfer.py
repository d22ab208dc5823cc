"""Facts about transfer: blocks, rates by depth, thawing, heads on frozen features, few images."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from made_shards import make_shards
from safetensors.torch import load_file

from imagemill.errors import ParamsError
from imagemill.loading import SplitImages, open_split
from imagemill.models import MODELS, build_model, save_weights
from imagemill.models.parts import blocks_of, features_of, head_of
from imagemill.params import Params, TransferParams, parse_params, read_yaml
from imagemill.records import AUGMENTED_INDEX, AUGMENTED_SCHEMA, Architecture, Start, sha256_of_file
from imagemill.train.heads import fit_head, put_prototypes
from imagemill.train.job import prepare, publish
from imagemill.train.judge import top1
from imagemill.train.launch import train_processes
from imagemill.train.loop import fit
from imagemill.train.machine import choose_machine
from imagemill.train.optimizers import build_optimizer
from imagemill.train.origin import Origin
from imagemill.train.progress import FitResult, Progress
from imagemill.train.ranks import ALONE
from imagemill.train.subset import few_of_each, write_few_shot
from imagemill.train.thawing import Thawing

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPE = (1, 12, 12)


def settings(transfer: dict[str, Any], **train: Any) -> Params:
    document = read_yaml(REPOSITORY / "params.yaml")
    document["train"] |= {
        "model": "fast_mnist",
        "input_size": 12,
        "init_from": "stored.safetensors",
        "transfer": transfer,
        "epochs": 3,
        "batch_size": 16,
        "precision": "float32",
        "checkpoint_seconds": 1e-6,
        **train,
    }
    document["augment"] |= {"copies": 0, "offline": []}
    return parse_params(document, where="test")


def net(seed: int = 0, name: str = "fast_mnist") -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return build_model(
        Architecture(name=name, arguments={"width": 1.0}),
        input_shape=SHAPE,
        num_classes=3,
        mean=[0.5],
        std=[0.3],
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path)
    return tmp_path


def split(root: Path, name: str) -> SplitImages:
    loading = settings({"mode": "features"}).loading
    return open_split(root, name, input_shape=SHAPE, loading=loading)


def finetuned(
    model: torch.nn.Module,
    root: Path,
    params: Params,
    *,
    report=lambda progress: None,
    checkpoints: Path | None = None,
) -> FitResult:
    return fit(
        model,
        split(root, "train"),
        train=params.train,
        augment=params.augment,
        epochs=params.train.epochs,
        learning_rate=params.train.learning_rate,
        teacher=None,
        report=report,
        checkpoints=checkpoints,
        transfer=params.train.transfer,
    )


def with_head(model: torch.nn.Module, root: Path, params: Params) -> FitResult:
    return fit_head(
        model,
        split(root, "train"),
        split(root, "val"),
        root=root,
        train=params.train,
        augment=params.augment,
        machine=choose_machine(params.train),
        ranks=ALONE,
        report=lambda progress: None,
    )


def changed(before: torch.nn.Module, after: torch.nn.Module) -> set[str]:
    """Names of what differs in the last bit."""
    ours = after.state_dict()
    theirs = before.state_dict().items()
    return {name for name, value in theirs if not torch.equal(value, ours[name])}


# Blocks and rates ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_blocks_and_head_are_all_of_a_model(name: str) -> None:
    """Every parameter is the head's or belongs to one block."""
    size = max(MODELS[name].minimum_size, 32)
    model = build_model(
        Architecture(name=name, arguments={"width": 1.0}),
        input_shape=(3, size, size),
        num_classes=10,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )
    head = head_of(model)
    of_blocks = [parameter for block in blocks_of(model) for parameter in block.parameters]
    of_head = [own for own, _ in model.named_parameters() if own.startswith(f"{head}.")]
    assert sorted(of_blocks + of_head) == sorted(name for name, _ in model.named_parameters())


def test_a_norm_belongs_to_the_layer_before_it() -> None:
    """fast_mnist has three convolutions with their norms, and so three blocks."""
    blocks = blocks_of(net())
    names = ("1.convolution2.weight", "1.norm2.weight", "1.norm2.bias")
    assert [len(block.modules) for block in blocks] == [2, 2, 2]
    assert blocks[1].parameters == names


def test_rates_fall_with_depth() -> None:
    """The head learns at the whole rate, the blocks at body_rate x decay^depth of it."""
    transfer = TransferParams(mode="finetune", body_rate=0.5, layer_decay=0.1)
    model, train = net(), settings(transfer.model_dump()).train
    optimizer = build_optimizer(model, train)
    Thawing(model, transfer, total_steps=10).share_rates(optimizer)
    names = {id(value): name for name, value in model.named_parameters()}
    shares = {
        names[id(value)]: group["share"]
        for group in optimizer.param_groups
        for value in group["params"]
    }
    assert shares["1.head.weight"] == 1
    assert shares["1.norm3.weight"] == pytest.approx(0.5)
    assert shares["1.convolution2.weight"] == pytest.approx(0.05)
    assert shares["1.convolution1.weight"] == pytest.approx(0.005)


def test_blocks_join_one_by_one_from_the_last() -> None:
    """With unfreeze 0.5 of 60 steps, three blocks join after 10, 20 and 30."""
    transfer = TransferParams(mode="finetune", body_rate=1, unfreeze=0.5)
    model = net()
    thawing = Thawing(model, transfer, total_steps=60)
    assert thawing.turns == [30, 20, 10]
    thawing.before(20)
    learns = {name for name, value in model.named_parameters() if value.requires_grad}
    assert learns == {
        name for name, _ in model.named_parameters() if not name.startswith(("1.conv", "1.norm"))
    } | {f"1.{part}" for part in ("convolution2.weight", "convolution3.weight")} | {
        f"1.norm{number}.{part}" for number in (2, 3) for part in ("weight", "bias")
    }
    assert not model[1].norm1.training
    assert model[1].norm2.training


def test_what_rests_does_not_change(shards: Path) -> None:
    """A body with rate 0 keeps every bit, its running statistics too; the head learns."""
    model = net(seed=1)
    finetuned(model, shards, settings({"mode": "finetune", "body_rate": 0}))
    assert changed(net(seed=1), model) == {"1.head.weight", "1.head.bias"}


def test_a_thawed_body_learns(shards: Path) -> None:
    """Once all blocks have joined, all of them change."""
    model = net(seed=1)
    finetuned(model, shards, settings({"mode": "finetune", "body_rate": 1, "unfreeze": 0.5}))
    kept = {"0.mean", "0.scale"}
    assert changed(net(seed=1), model) == set(model.state_dict()) - kept


class KilledError(Exception):
    """Stands for the end of a process in the middle of training."""


def kill_after(epoch: int):
    def report(progress: Progress) -> None:
        if progress.ends_epoch and progress.epoch == epoch:
            raise KilledError

    return report


@pytest.mark.parametrize("epoch", [2, 4])
def test_thawing_is_resumed_as_if_never_stopped(epoch: int, shards: Path, tmp_path: Path) -> None:
    """Stopped while blocks still rest, or after, the weights end bit for bit the same."""
    transfer = {"mode": "finetune", "body_rate": 0.5, "layer_decay": 0.8, "unfreeze": 0.6}
    ema = {"decay": 0.9, "every": 1}
    params = settings(transfer, epochs=6, optimizer="adamw", learning_rate=0.01, ema=ema)
    whole, halves = net(seed=1), net(seed=1)
    finetuned(whole, shards, params)
    with pytest.raises(KilledError):
        finetuned(halves, shards, params, report=kill_after(epoch), checkpoints=tmp_path / "c")
    halves = net(seed=2)  # another process starts from anything
    result = finetuned(halves, shards, params, checkpoints=tmp_path / "c")
    assert 0 < result.resumed_at < 24
    assert changed(whole, halves) == set()


def launched(root: Path, params: Params) -> Path:
    """Run the training stage's steps from weights of seed 1; the published folder."""
    file = root / "stored.safetensors"
    save_weights(file, net(seed=1))
    origin = Origin(Start(kind="file", name="stored", sha256=sha256_of_file(file)), file)
    job = prepare(root, params, origin)
    train_processes(job, lambda line: None, print)
    publish(job)
    return root / "models/base"


def test_processes_thaw_together(shards: Path) -> None:
    """One and two processes end with the same weights, within float32's rounding."""
    transfer = {"mode": "finetune", "body_rate": 0.5, "unfreeze": 0.6}
    weights = []
    for processes in (1, 2):
        shutil.rmtree(shards / "models", ignore_errors=True)
        strategy = "ddp" if processes > 1 else "single"
        params = settings(transfer, processes=processes, strategy=strategy, synchronise_norms=True)
        weights.append(load_file(launched(shards, params) / "model.safetensors"))
    one, two = weights
    # 12 steps whose sums differ in order, through norms that divide by small spreads.
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


# Heads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [None, 2])
def test_a_head_learns_on_frozen_features(passes: int | None, shards: Path) -> None:
    """Three brightnesses are told apart; only the head changes."""
    transfer = {"mode": "features", "passes": passes}
    params, model = settings(transfer, epochs=20, learning_rate=0.02), net(seed=1)
    result = with_head(model, shards, params)
    machine = choose_machine(params.train)
    assert result.steps == 80
    assert changed(net(seed=1), model) == {"1.head.weight", "1.head.bias"}
    assert top1(model.eval(), split(shards, "val"), machine) >= 0.9


def test_a_head_stops_early_and_keeps_its_best_epoch(shards: Path) -> None:
    """A gain nobody can reach ends it after the second epoch, with the head of the first."""
    steady = {"schedule": "constant", "warmup": 0.0, "learning_rate": 0.02}
    stopping = {"early_stopping": {"patience": 1, "min_gain": 1.0}}
    stopped, short = net(seed=1), net(seed=1)
    result = with_head(
        stopped, shards, settings({"mode": "features"}, epochs=20, **steady, **stopping)
    )
    with_head(short, shards, settings({"mode": "features"}, epochs=1, **steady))
    assert (result.steps, result.best_epoch) == (8, 1)
    assert changed(short, stopped) == set()


@pytest.mark.parametrize(("every", "moved"), [(1, {"1.head.weight", "1.head.bias"}), (999, set())])
def test_of_a_head_the_average_is_kept(every: int, moved: set[str], shards: Path) -> None:
    """An average that is never brought up to date is still the head it began with."""
    ema = {"decay": 0.9, "every": every}
    model, plain = net(seed=1), net(seed=1)
    with_head(model, shards, settings({"mode": "features"}, epochs=5, ema=ema))
    with_head(plain, shards, settings({"mode": "features"}, epochs=5))
    assert changed(net(seed=1), model) == moved
    assert changed(plain, model) == {"1.head.weight", "1.head.bias"}


def test_features_are_computed_once(shards: Path) -> None:
    """A second head finds them; other weights have their own, another head does not matter."""
    params, folder = settings({"mode": "features"}), shards / ".imagemill/features"
    model = net(seed=1)
    with_head(model, shards, params)
    made = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with_head(model, shards, params)  # with the head it has learned
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == made
    with_head(net(seed=2), shards, params)
    assert len(list(folder.iterdir())) == 2 * len(made) == 4


def test_a_head_says_the_same_inside_its_network(shards: Path) -> None:
    """A net that scales its logits gets a head that makes up for it: prototypes give 10 at most."""
    model = net(seed=1, name="fast_cifar").eval()
    with_head(model, shards, settings({"mode": "prototypes"}, model="fast_cifar"))
    images = split(shards, "train")
    pixels = torch.from_numpy(images.take(np.arange(60))).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        features, logits = features_of(model, pixels), model(pixels)
    longest = float(features.norm(dim=1).max() / features.norm(dim=1).mean())
    assert 5 < float(logits.max()) <= 10 * longest + 1e-3


def test_prototypes_are_the_nearest_by_cosine() -> None:
    """The head says the class whose mean direction is nearest to the centred feature."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(3, 1, (40, 5)).astype(np.float32), np.arange(40) % 4
    head = torch.nn.Linear(5, 4)
    put_prototypes(head, features, targets)
    centred = features - features.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    means = np.stack([unit[targets == target].mean(0) for target in range(4)])
    cosines = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(logits, 10 * cosines * lengths / lengths.mean(), atol=1e-4)


def test_few_images_of_each_class_do_by_prototypes(shards: Path) -> None:
    """Two images of each brightness make a classifier; it is saved and exported as any other."""
    params = settings({"mode": "prototypes", "images_per_class": 2}, processes=2, strategy="ddp")
    folder = launched(shards, params)
    metrics = json.loads((folder / "metrics.json").read_bytes())
    assert metrics["val_top1"] >= 0.9
    assert (metrics["num_images"], metrics["steps"]) == (6, 0)
    stored = load_file(shards / "stored.safetensors")
    kept = load_file(folder / "model.safetensors")
    body = [name for name in stored if not name.startswith("1.head.")]
    assert all(torch.equal(stored[name], kept[name]) for name in body)


def test_a_head_that_is_no_linear_layer_is_refused() -> None:
    """The message says what works."""
    model = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Conv2d(1, 3, 1))
    with pytest.raises(ParamsError, match=r"transfer\.mode: finetune"):
        features_of(model, torch.rand(1, 1, 4, 4))


# Few images ----------------------------------------------------------------------------------


def test_few_of_each_class_whatever_the_order() -> None:
    """Which images are taken depends on seed and key alone, and more take the fewer along."""
    keys = [f"image-{number}" for number in range(60)]
    targets = np.arange(60) % 3
    three, turned = (
        few_of_each(keys, targets, 3, seed=0),
        few_of_each(keys[::-1], targets[::-1], 3, seed=0),
    )
    assert np.bincount(targets[three]).tolist() == [3, 3, 3]
    assert (three == turned[::-1]).all()
    assert (few_of_each(keys, targets, 4, seed=0) & three).sum() == 9
    assert (few_of_each(keys, targets, 3, seed=1) != three).any()


def test_chosen_images_keep_their_copies(shards: Path) -> None:
    """The copies of an image that was taken are learned from too, those of others are not."""
    rows = pq.read_table(shards / AUGMENTED_INDEX).to_pylist()
    copies = [
        {**row, "key": f"{row['key']}_copy", "parent_key": row["key"]}
        for row in rows
        if row["split"] == "train"
    ]
    import pyarrow as pa

    table = pa.Table.from_pylist(rows + copies, schema=AUGMENTED_SCHEMA).sort_by("key")
    pq.write_table(table, shards / AUGMENTED_INDEX)
    write_few_shot(shards, shards / "few", 2, seed=0)
    kept = pq.read_table(shards / "few" / AUGMENTED_INDEX).to_pylist()
    originals = {row["key"] for row in kept if row["parent_key"] is None}
    assert len(originals) == 6
    assert {row["parent_key"] for row in kept if row["parent_key"]} == originals


# Rules ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transfer", "train", "words"),
    [
        ({"mode": "finetune"}, {}, "needs body_rate"),
        ({"mode": "features", "layer_decay": 0.5}, {}, "belong to mode finetune"),
        ({"mode": "finetune", "body_rate": 1, "passes": 2}, {}, "passes belong to mode features"),
        ({"mode": "finetune", "body_rate": 1}, {"optimizer": "muon"}, "choose another optimizer"),
        ({"mode": "features"}, {"init_from": None}, "transfer needs weights"),
        (
            {"mode": "finetune", "body_rate": 1, "unfreeze": 0.5},
            {"strategy": "fsdp", "processes": 2},
            "strategy single or ddp",
        ),
    ],
)
def test_what_does_not_go_together(
    transfer: dict[str, Any], train: dict[str, Any], words: str
) -> None:
    """Rules between knobs are told as such."""
    with pytest.raises(ParamsError, match=words):
        settings(transfer, **train)
