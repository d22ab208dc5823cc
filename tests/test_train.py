"""Facts about training: the parts, the loop, checkpoints, and real processes."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from made_shards import make_shards
from safetensors.torch import load_file

from imagemill.errors import TrainingError, UserError
from imagemill.loading import SplitImages, open_split
from imagemill.models import build_model, load_model
from imagemill.params import OperationParams, Params, parse_params, read_yaml
from imagemill.records import Architecture
from imagemill.train.job import Job, prepare, publish
from imagemill.train.judge import top1
from imagemill.train.launch import train_processes
from imagemill.train.loop import fit
from imagemill.train.losses import LOSSES, Teacher
from imagemill.train.machine import choose_machine, keep_freed_memory
from imagemill.train.muon import orthogonalised
from imagemill.train.optimizers import OPTIMIZERS, build_optimizer, set_rate
from imagemill.train.progress import FitResult, Progress
from imagemill.train.schedules import rate_share

REPOSITORY = Path(__file__).resolve().parent.parent
SHAPE = (1, 12, 12)
# A peak rate that suits the small problem below.
RATES = {"sgd": 0.1, "nesterov": 0.1, "adam": 0.01, "adamw": 0.01, "rmsprop": 0.003, "muon": 0.05}


def settings(**train: object) -> Params:
    """The params we ship, with a tiny training in one plain thread."""
    document = read_yaml(REPOSITORY / "params.yaml")
    document["train"] |= {
        "model": "seed_minimal",
        "input_size": 12,
        "epochs": 3,
        "batch_size": 16,
        "precision": "float32",
        "checkpoint_seconds": 1e-6,
        "strategy": "ddp" if train.get("processes", 1) != 1 else "single",
        **train,
    }
    return parse_params(document, where="test")


def fresh(seed: int = 0) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    architecture = Architecture(name="seed_minimal", arguments={"width": 1.0})
    return build_model(architecture, input_shape=SHAPE, num_classes=3, mean=[0.5], std=[0.3])


def trained(
    model: torch.nn.Module,
    images: SplitImages,
    params: Params,
    *,
    report=lambda progress: None,
    **others: Any,
) -> FitResult:
    return fit(
        model,
        images,
        train=params.train,
        augment=params.augment,
        epochs=params.train.epochs,
        learning_rate=params.train.learning_rate,
        teacher=None,
        report=report,
        **others,
    )


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path)
    return tmp_path


def train_split(root: Path) -> SplitImages:
    return open_split(root, "train", input_shape=SHAPE, loading=settings().loading)


def weights_of(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


# Parts ---------------------------------------------------------------------------------------


def test_mse_is_the_squared_distance_to_one_hot() -> None:
    """Equal logits over K classes cost ((1 - 1/K)^2 + (K - 1) / K^2) / K."""
    losses = LOSSES["mse"](torch.zeros(1, 4), torch.tensor([2]), 0.0)
    assert losses.item() == pytest.approx((0.75**2 + 3 * 0.25**2) / 4)


def test_cross_entropy_of_equal_logits_is_log_k() -> None:
    """Whatever the smoothing, knowing nothing costs log K."""
    losses = LOSSES["cross_entropy"](torch.zeros(1, 10), torch.tensor([2]), 0.1)
    assert losses.item() == pytest.approx(np.log(10), rel=1e-6)


def test_a_student_like_its_teacher_pays_only_the_labels() -> None:
    """The teacher's part is zero where both agree, and its weight is alpha."""
    teacher = fresh().eval()
    images = torch.rand(5, *SHAPE)
    losses = torch.ones(5)
    with torch.no_grad():
        blended = Teacher(teacher, temperature=3, alpha=0.75).blend(losses, teacher(images), images)
    assert torch.allclose(blended, torch.full((5,), 0.25), atol=1e-6)


def test_distillation_is_the_scaled_divergence() -> None:
    """At alpha 1 the loss is T^2 KL(teacher || student) of the softened outputs."""
    teacher, images, logits = fresh().eval(), torch.rand(5, *SHAPE), torch.randn(5, 3)
    with torch.no_grad():
        blended = Teacher(teacher, temperature=2, alpha=1).blend(torch.ones(5), logits, images)
        p = (teacher(images) / 2).softmax(1)
    expected = 4 * (p * (p.log() - (logits / 2).log_softmax(1))).sum(1)
    assert torch.allclose(blended, expected, atol=1e-5)


def test_one_cycle_is_a_triangle() -> None:
    """It rises to its peak at the end of warm-up, falls to near zero, and stays within 0..1."""
    train = settings(schedule="one_cycle", warmup=0.25).train
    rates = [rate_share(train, step, 100) for step in range(100)]
    assert int(np.argmax(rates)) in (24, 25)
    assert 0 < min(rates) < 0.03
    assert 0.97 < max(rates) <= 1


def test_a_norms_fixed_scale_is_as_good_as_one_behind_it() -> None:
    """Three times the shift of a norm whose outputs are multiplied by three, after a step."""
    shifts = []
    for inside, behind in ((3.0, 1.0), (1.0, 3.0)):
        norm = torch.nn.BatchNorm2d(2)
        torch.nn.init.constant_(norm.weight, inside).requires_grad_(False)
        optimizer = build_optimizer(norm, settings(optimizer="muon", weight_decay=0).train)
        set_rate(optimizer, 0.1)
        images = torch.linspace(-1, 2, 24).view(3, 2, 2, 2)
        torch.tanh(behind * norm(images)).sum().backward()
        optimizer.step()
        shifts.append(norm.bias.detach() * behind)
    assert shifts[0].abs().min() > 1e-3
    assert torch.allclose(*shifts, rtol=1e-5)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    """Five iterations bring all singular values of a random matrix into 0.6..1.3."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape), steps=5))
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3


def test_freed_memory_is_kept_on_glibc() -> None:
    """The allocator accepts the settings."""
    assert keep_freed_memory()


# The loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns_with_every_loss(optimizer: str, loss: str, shards: Path) -> None:
    """Three brightnesses are told apart on val after a few epochs."""
    adaptive = optimizer in ("adam", "adamw", "rmsprop")
    rate = RATES[optimizer] * (5 if loss == "mse" and not adaptive else 1)
    params = settings(
        optimizer=optimizer, loss=loss, label_smoothing=0, learning_rate=rate, epochs=10
    )
    model = fresh()
    trained(model, train_split(shards), params)
    val = open_split(shards, "val", input_shape=SHAPE, loading=params.loading)
    assert top1(model, val, choose_machine(params.train)) >= 0.9


def test_every_epoch_balances(shards: Path) -> None:
    """60 samples in batches of 16: every epoch consumes all of them."""
    result = trained(fresh(), train_split(shards), settings())
    assert [account.consumed for account in result.ledger] == [60, 60, 60]
    assert result.steps == 12


def test_same_seed_same_weights(shards: Path) -> None:
    """Training twice gives the same bits."""
    models = [fresh(), fresh()]
    for model in models:
        trained(model, train_split(shards), settings())
    assert torch.equal(*map(weights_of, models))


def test_a_broken_loss_stops_with_advice(shards: Path) -> None:
    """A loss that is not finite is a TrainingError that names the rate."""
    with pytest.raises(TrainingError, match=r"lower train\.learning_rate"):
        trained(fresh(), train_split(shards), settings(learning_rate=1e30, loss="cross_entropy"))


def test_the_teacher_is_not_changed(shards: Path) -> None:
    """Distilling leaves the teacher's weights alone."""
    teacher, params = fresh(1).eval(), settings()
    before = weights_of(teacher).clone()
    fit(
        fresh(),
        train_split(shards),
        train=params.train,
        augment=params.augment,
        epochs=1,
        learning_rate=0.1,
        teacher=Teacher(teacher, temperature=2, alpha=0.5),
        report=lambda progress: None,
    )
    assert torch.equal(weights_of(teacher), before)


# Checkpoints ---------------------------------------------------------------------------------


class KilledError(Exception):
    """Stands for the end of a process in the middle of training."""


def killed_at_epoch(epoch: int):
    def report(progress: Progress) -> None:
        if progress.ends_epoch and progress.epoch == epoch:
            raise KilledError

    return report


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_is_as_if_never_stopped(optimizer: str, shards: Path, tmp_path: Path) -> None:
    """Stopped in the middle and resumed, the weights are bit for bit those of one run."""
    params = settings(optimizer=optimizer, epochs=6, batch_size=4, learning_rate=RATES[optimizer])
    images, whole, halves = train_split(shards), fresh(), fresh()
    trained(whole, images, params)
    with pytest.raises(KilledError):
        trained(halves, images, params, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    halves = fresh(seed=1)  # another process starts from anything
    result = trained(halves, images, params, checkpoints=tmp_path / "c")
    assert 0 < result.resumed_at < 60
    assert torch.equal(weights_of(halves), weights_of(whole))


def test_dropout_draws_the_same_after_a_pause(shards: Path, tmp_path: Path) -> None:
    """What layers draw is a function of seed, step and rank: bit for bit as if never stopped."""
    params, images = settings(epochs=6, batch_size=4), train_split(shards)
    whole, halves = (torch.nn.Sequential(fresh(), torch.nn.Dropout(0.3)) for _ in range(2))
    trained(whole, images, params)
    with pytest.raises(KilledError):
        trained(halves, images, params, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    torch.rand(7)  # another process has drawn other things
    trained(halves, images, params, checkpoints=tmp_path / "c")
    assert torch.equal(weights_of(halves), weights_of(whole))


def test_a_damaged_checkpoint_is_passed_over(shards: Path, tmp_path: Path) -> None:
    """With the newest one damaged, training resumes from the one before and ends the same."""
    params, images = settings(epochs=6, batch_size=4), train_split(shards)
    whole, halves = fresh(), fresh()
    trained(whole, images, params)
    with pytest.raises(KilledError):
        trained(halves, images, params, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    newest, older = sorted(
        (tmp_path / "c").glob("step-*"), key=lambda path: int(path.name[5:]), reverse=True
    )
    tensors = newest / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\0\0\0\x7f")
    result = trained(halves, images, params, checkpoints=tmp_path / "c")
    assert result.resumed_at == int(older.name[5:])
    assert torch.equal(weights_of(halves), weights_of(whole))


# Real processes ------------------------------------------------------------------------------


def launched(root: Path, params: Params, on_line=lambda line: None) -> Path:
    """Run the training stage's steps; the published folder."""
    job = prepare(root, params)
    train_processes(job, on_line, print)
    publish(job)
    return root / "models/base"


def worker_of(job: Job) -> psutil.Process:
    """The training process of a job: the one torch.distributed.run started."""
    return next(
        process
        for process in psutil.Process().children(recursive=True)
        if "imagemill.train.worker" in process.cmdline()
        and "torch.distributed.run" not in process.cmdline()
    )


def test_any_number_of_processes_gives_the_same_model(shards: Path) -> None:
    """One and two processes at the same global batch end within float32's rounding.

    Images are mixed, so a process needs one of another's slice.
    """
    mixing = [
        OperationParams(operation="mixup", probability=0.5, alpha=0.4),
        OperationParams(operation="cutmix", probability=0.5, alpha=1.0),
    ]
    weights = []
    for processes in (1, 2):
        shutil.rmtree(shards / "models", ignore_errors=True)
        params = settings(processes=processes, epochs=4)
        augment = params.augment.model_copy(update={"online": (*params.augment.online, *mixing)})
        folder = launched(shards, params.model_copy(update={"augment": augment}))
        weights.append(weights_of(load_model(folder)[0]))
    # 16 steps whose sums differ in order: a few units of the last place each.
    assert torch.allclose(*weights, atol=1e-5)


def test_a_killed_process_is_gone_on_with(shards: Path) -> None:
    """kill -9 in the middle: the run says so, the next one resumes and ends with the same bits."""
    params = settings(epochs=200, batch_size=4, restarts=0, checkpoint_seconds=0.2)
    before = set(psutil.Process().children(recursive=True))
    expected = load_file(launched(shards, params) / "model.safetensors")
    job = prepare(shards, params)

    killed: list[int] = []

    def kill(line: dict[str, object]) -> None:
        if not killed and (job.folder / "checkpoints").is_dir():
            killed.append(worker_of(job).pid)
            os.kill(killed[0], signal.SIGKILL)

    with pytest.raises(TrainingError, match="goes on from its last checkpoint"):
        train_processes(job, kill, print)
    resumed = load_file(launched(shards, params) / "model.safetensors")
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_mistake_reaches_the_user_as_a_sentence(shards: Path) -> None:
    """What goes wrong inside a process comes out as its own words, and no model is published."""
    with pytest.raises(UserError, match="seed_mnist needs images of at least 18 px, got 12 px"):
        launched(shards, settings(model="seed_mnist"))
    assert not (shards / "models").exists()
