"""Facts about what is written down while a model trains."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from made_shards import make_shards
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_train import KilledError, fresh, killed_at_epoch, settings, train_split, weights_of

from imagemill.params import LoadingParams, Params, WatchParams
from imagemill.train.job import prepare, publish
from imagemill.train.launch import train_processes
from imagemill.train.loop import fit
from imagemill.train.machine import Machine
from imagemill.train.progress import Progress
from imagemill.train.ranks import ALONE
from imagemill.train.watching.norms import Look
from imagemill.train.watching.usage import Energy, peak_memory
from imagemill.train.watching.waiting import Waiting, hint
from imagemill.train.watching.watch import Wanted

CPU = torch.device("cpu")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    make_shards(tmp_path)
    return tmp_path


def loading(**changes: object) -> LoadingParams:
    return settings().loading.model_copy(update=changes)


def waiting(**changes: object) -> Waiting:
    return Waiting(loading(**changes), is_cached=False, crop=False, decoded_bytes=1_000)


def watched(
    root: Path,
    params: Params,
    *,
    norms_every: int | None = 2,
    profile_steps: int | None = None,
    tensorboard: bool = True,
    apart: bool = False,
    checkpoints: Path | None = None,
    report=lambda progress: None,
) -> torch.nn.Module:
    """A training with everything it writes below `root`."""
    model = fresh()
    fit(
        model,
        train_split(root),
        train=params.train,
        augment=params.augment,
        epochs=params.train.epochs,
        learning_rate=params.train.learning_rate,
        teacher=None,
        report=report,
        checkpoints=checkpoints,
        watch=Wanted(
            settings=WatchParams(
                tensorboard=tensorboard, norms_every=norms_every, profile_steps=profile_steps
            ),
            board=root / "board",
            trace=root / "trace.json",
            activations=True,
            apart=apart,
            waiting=waiting(),
            say=lambda sentence: None,
        ),
    )
    return model


def curve(root: Path, name: str) -> list[int]:
    """Steps at which TensorBoard shows a value."""
    events = EventAccumulator(str(root / "board"))
    events.Reload()
    return [event.step for event in events.Scalars(name)]


# Norms ---------------------------------------------------------------------------------------


def test_the_gradient_norm_is_that_of_all_gradients_in_one_vector() -> None:
    """The norms of the parameters, squared and summed, and the loss's scale taken out."""
    model = fresh()
    (model(torch.rand(4, 1, 12, 12)).square().sum() * 8).backward()
    look = Look(ALONE)
    look.at_gradients(model, 8.0)
    whole = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]) / 8
    assert np.hypot.reduce(list(look.gradients.values())) == pytest.approx(float(whole.norm()))


def test_an_activation_norm_is_the_root_mean_square_of_a_layers_output() -> None:
    """Over all parts a batch is computed in, and without a hook left behind."""
    model, layer = fresh(), torch.nn.Linear(3, 5)
    model.add_module("last", layer)
    inputs, look = torch.randn(6, 3), Look(ALONE)
    with look.at_activations(model):
        outputs = layer(inputs)
    layer(10 * inputs)
    assert look.activations == {
        "last": pytest.approx(float(outputs.detach().square().mean().sqrt()))
    }


def test_a_pass_apart_sees_the_same_and_changes_nothing() -> None:
    """Neither running statistics nor the draws of what comes after."""
    model, images = fresh().train(), torch.rand(4, 1, 12, 12)
    model.add_module("dropped", torch.nn.Dropout())
    machine = Machine(CPU, torch.float32, channels_last=False)
    within, apart = Look(ALONE), Look(ALONE, apart=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    apart.at_images(model, images, machine)
    after = torch.rand(1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))
    Look(ALONE).at_images(model, images, machine)
    with within.at_activations(model):
        model(images)
    assert apart.activations == within.activations != {}


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_looked_at_too(shards: Path) -> None:
    """Curves of activations, and the weights it has without them."""
    compiled = settings(epochs=1, compile=True)
    seen = watched(shards, compiled, norms_every=2, apart=True).state_dict()
    assert curve(shards, "train/activation_norm") == [4]
    plain = watched(shards, compiled, norms_every=None, apart=True).state_dict()
    assert all(torch.equal(value, plain[name]) for name, value in seen.items())


def test_watching_changes_no_weight(shards: Path) -> None:
    """With norms, TensorBoard and a trace on, the weights are those of a training without."""
    params = settings(epochs=4)
    plain = watched(shards, params, norms_every=None, tensorboard=False)
    assert torch.equal(
        weights_of(watched(shards, params, norms_every=1, profile_steps=3)), weights_of(plain)
    )


def test_a_report_holds_the_norms_measured_since_the_last_one(shards: Path) -> None:
    """Four steps an epoch, looked at every eighth: every second epoch has norms."""
    told: list[Progress] = []
    watched(shards, settings(epochs=4), norms_every=8, report=told.append)
    known = [progress.measured["gradient_norm"] is not None for progress in told]
    assert known == [False, True, False, True]


# Memory and energy ---------------------------------------------------------------------------


def test_peak_memory_does_not_fall(shards: Path) -> None:
    """It counts memory that was given back."""
    before = peak_memory(CPU)
    np.ones(300_000_000, np.uint8).sum()
    during = peak_memory(CPU)
    assert before is not None and during is not None and 0 < before <= during == peak_memory(CPU)


def test_energy_is_unknown_without_counters(tmp_path: Path) -> None:
    """None, and not 0."""
    energy = Energy(tmp_path, CPU)
    assert energy.since_last() is None and energy.in_all is None


def test_energy_is_counted_since_the_last_time(tmp_path: Path) -> None:
    """Two packages' joules; in all they are the sum."""
    packages = [tmp_path / f"intel-rapl:{number}" for number in range(2)]
    for package in packages:
        package.mkdir()
        (package / "max_energy_range_uj").write_text("1000000000")
        (package / "energy_uj").write_text("5000000")
    energy = Energy(tmp_path, CPU)
    (packages[0] / "energy_uj").write_text("7000000")
    assert energy.since_last() == 2.0
    (packages[1] / "energy_uj").write_text("8000000")
    assert energy.since_last() == 3.0
    assert energy.in_all == 5.0


def test_the_processors_energy_is_not_told_as_a_gpus(tmp_path: Path) -> None:
    """On a GPU the counters do not see what draws most."""
    assert Energy(tmp_path, torch.device("cuda")).since_last() is None


# TensorBoard and traces ----------------------------------------------------------------------


def test_tensorboard_has_curves_and_layers(shards: Path) -> None:
    """Every report is a point, and every look one for each parameter and layer."""
    watched(shards, settings(epochs=3), norms_every=6)
    assert curve(shards, "train/loss") == [4, 8, 12]
    events = EventAccumulator(str(shards / "board"))
    events.Reload()
    groups = {name.split("/")[0] for name in events.Tags()["scalars"]}
    assert groups == {"train", "gradients", "activations"}


@pytest.mark.parametrize("seconds", [1e-6, 1000.0])
def test_curves_of_a_resumed_training_do_not_fold_back(
    seconds: float, shards: Path, tmp_path: Path
) -> None:
    """What was told after the checkpoint, or before the beginning, is told anew and shown once."""
    params = settings(epochs=6, checkpoint_seconds=seconds)
    with pytest.raises(KilledError):
        watched(shards, params, report=killed_at_epoch(4), checkpoints=tmp_path / "c")
    watched(shards, params, checkpoints=tmp_path / "c")
    assert curve(shards, "train/loss") == [4, 8, 12, 16, 20, 24]


def test_a_trace_shows_the_steps_asked_for(shards: Path) -> None:
    """Chrome's JSON, with as many optimiser steps as params say."""
    watched(shards, settings(epochs=4), profile_steps=3)
    events = json.loads((shards / "trace.json").read_text())["traceEvents"]
    steps = [event for event in events if event.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 3


# Waiting -------------------------------------------------------------------------------------


def test_waiting_is_told_once() -> None:
    """Half the time over some seconds is too much; saying so once is enough."""
    judge = waiting()
    said = [judge.over(3.0, 0.5) for _ in range(6)]
    assert [sentence is not None for sentence in said] == [False, False, True, False, False, False]
    assert said[2] == (
        "training waited for images 50% of the last 6 s: raise loading.workers (now 0) while cores "
        "are free, or raise loading.cache_bytes to 1,000, so that each is decoded only once"
    )
    assert judge.at_the_end(100.0, 0.5) is None


def test_a_fifth_of_the_time_is_not_too_much() -> None:
    """Neither over a window nor over the run; the first report has the start of workers in it."""
    judge = waiting()
    assert [judge.over(6.0, 0.5), judge.over(6.0, 0.19), judge.at_the_end(18.0, 0.2)] == [None] * 3


def test_the_hint_fits_the_loading() -> None:
    """A cache that is full, one that cannot be, and shards from elsewhere each have another."""
    cached = hint(loading(), is_cached=True, crop=False, decoded_bytes=1)
    assert "augment.online" in cached and "loading" not in cached
    assert "cache_bytes" not in hint(loading(), is_cached=False, crop=True, decoded_bytes=1)
    streamed = loading(layout="streaming", remote="data")
    assert "stream_cache_bytes" in hint(streamed, is_cached=False, crop=True, decoded_bytes=1)


# The stage -----------------------------------------------------------------------------------


def test_a_training_says_at_its_start_how_it_computes(shards: Path) -> None:
    """The first line says device, precision, layout, threads and allocator; curves hold no notes.

    On two ranks norms and memory are told as on one.
    """
    lines: list[dict[str, object]] = []
    job = prepare(shards, settings(processes=2, watch=dict(WATCH, norms_every=4)))
    train_processes(job, lines.append, print)
    publish(job)
    told = "computing on cpu, float32, channels last, 1 thread(s), freed memory is kept"
    assert lines[0] == {"note": told}
    curves = (shards / "models/base/metrics.jsonl").read_text().splitlines()
    values = [json.loads(line) for line in curves]
    assert all({"step", "gradient_norm", "peak_memory_bytes"} <= set(line) for line in values)
    assert list((shards / ".imagemill/tensorboard").glob("seed_minimal-*/events.*"))


WATCH = {"tensorboard": True, "norms_every": 50, "profile_steps": None}
