"""Facts about processes that are killed, hang, or are asked to end: real ones, of torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.nn.functional as F
from made_shards import make_shards
from safetensors.torch import load_file
from strategy_runs import settings

from imagemill.errors import ToBeResumedError, TrainingError
from imagemill.loading import open_split, to_input
from imagemill.loading.loader import plan_of
from imagemill.loading.plan import Share
from imagemill.params import Params
from imagemill.train.checkpoint import newest_checkpoint
from imagemill.train.initial import initial_model
from imagemill.train.job import Job, base_architecture, prepare, publish
from imagemill.train.launch import train_processes
from imagemill.train.loop import fit
from imagemill.train.pulse import Pulse, hung

TIMEOUT_SECONDS = 8.0
EPOCH = 15  # steps; the end of each is reported
_clock = time.monotonic  # tests change what `time` has


def workers() -> dict[int, psutil.Process]:
    """The training processes below this one, by rank."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            command = process.cmdline()
            if "imagemill.train.worker" in command and "torch.distributed.run" not in command:
                found[int(process.environ()["RANK"])] = process
        except (psutil.NoSuchProcess, KeyError):
            continue
    return found


def params_of(strategy: str, **train: Any) -> Params:
    """A training of 750 steps that saves about twice a second."""
    told = {"batch_size": 4, "epochs": 50, "learning_rate": 0.01, "checkpoint_seconds": 0.5}
    return settings(strategy, **{**told, **train})


def write_params(root: Path, params: Params) -> None:
    """As params.yaml, which may be JSON."""
    (root / "params.yaml").write_text(params.model_dump_json(by_alias=True, exclude_unset=True))


def trained_alone(job: Job) -> dict[str, torch.Tensor]:
    """What one process ends with that nobody disturbs."""
    images = open_split(job.root, "train", input_shape=job.input_shape, loading=job.loading)
    model = initial_model(base_architecture(job.train), images, job.data, job.train)
    fit(
        model,
        images,
        train=job.train,
        augment=job.augment,
        epochs=job.train.epochs,
        learning_rate=job.train.learning_rate,
        teacher=None,
        report=lambda _: None,
    )
    return model.state_dict()


def saved_step(job: Job) -> int:
    """The step of the newest checkpoint; 0 before the first."""
    newest = newest_checkpoint(job.folder / "checkpoints")
    return newest[1].step if newest else 0


@dataclass
class Day:
    """What happened to a training to which everything happens."""

    said: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)  # of the ranks that were hit
    seconds_to_end: float = 0.0  # from SIGTERM
    ended: str = ""
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    expected: dict[str, torch.Tensor] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    left_behind: list[psutil.Process] = field(default_factory=list)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Two ranks: one is killed, then one hangs, then there is one, and it is asked to end."""
    root, day = tmp_path_factory.mktemp("day"), Day()
    make_shards(root)
    before = set(psutil.Process().children(recursive=True))
    day.expected = trained_alone(prepare(root, params_of("single")))
    params = params_of("ddp", processes=2, restarts=1, timeout_seconds=TIMEOUT_SECONDS)
    job = prepare(root, params)
    hits = [(100, signal.SIGKILL, 1), (250, signal.SIGSTOP, 1), (400, signal.SIGTERM, 0)]
    asked_at = 0.0

    def follow(line: dict[str, Any]) -> None:
        nonlocal asked_at
        if "step" not in line:
            return  # a note
        day.steps.append(line["step"])
        if not hits or line["step"] <= hits[0][0]:
            return
        # Far enough behind a checkpoint that going back to it, and not to the beginning, shows.
        will_show = EPOCH < saved_step(job) < line["step"] - 2 * EPOCH
        if will_show and len(found := workers()) > hits[0][2]:
            _, number, rank = hits.pop(0)
            day.pids.append(found[rank].pid)
            os.kill(found[rank].pid, number)
            asked_at = time.monotonic()

    with pytest.raises(ToBeResumedError) as ended:
        train_processes(job, follow, day.said.append)
    day.seconds_to_end, day.ended = time.monotonic() - asked_at, str(ended.value)
    job = prepare(root, params)
    train_processes(job, lambda _: None, day.said.append)
    day.metrics = publish(job)
    day.weights = load_file(root / "models/base/model.safetensors")
    day.left_behind = list(set(psutil.Process().children(recursive=True)) - before)
    return day


def test_a_killed_rank_is_started_again(day: Day) -> None:
    """kill -9: the group goes on from its last checkpoint, not from the beginning."""
    going_back = [
        after for before, after in zip(day.steps, day.steps[1:], strict=False) if after < before
    ]
    assert going_back
    assert min(going_back) > EPOCH


def test_a_hung_rank_is_named_in_time(day: Day) -> None:
    """The one that was stopped, and not the one that waits for it."""
    (told,) = [line for line in day.said if "hangs" in line]
    assert told.startswith(f"rank 1 (process {day.pids[1]}) hangs: nothing from it since step ")
    silent = float(told.split(" for ")[1].split(" s;")[0])
    assert TIMEOUT_SECONDS / 2 <= silent <= TIMEOUT_SECONDS


def test_without_restarts_left_fewer_ranks_go_on(day: Day) -> None:
    """Lost twice with one restart: one process instead of two."""
    assert "processes were lost 2 times: going on with 1" in day.said


def test_sigterm_writes_a_checkpoint_in_ten_seconds(day: Day) -> None:
    """And the run says that it is to be resumed, and does not start the process again."""
    assert day.seconds_to_end < 10
    assert "to be resumed" in day.ended
    assert day.ended in day.said


def test_after_all_that_the_weights_are_those_of_one_process(day: Day) -> None:
    """750 steps on two, one and again two ranks: 1e-4, what rounding grows to in as many."""
    for name, value in day.expected.items():
        assert torch.allclose(day.weights[name], value, atol=1e-4), name
    assert {account["missing"] for account in day.metrics["ledger"]} == {0}
    assert {account["duplicate"] for account in day.metrics["ledger"]} == {0}
    assert len(day.metrics["ledger"]) == 50
    assert 0 < day.metrics["resumed_at"] < 750


def test_no_process_is_left_behind(day: Day) -> None:
    """Not of any of these."""
    assert day.left_behind == []


# Signs of life, without processes ------------------------------------------------------------


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the clock that signs of life are read by be so far on."""
    now = _clock() + seconds
    monkeypatch.setattr("imagemill.train.pulse.time.monotonic", lambda: now)


def test_silence_is_a_hang_after_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before, and not while a rank is still opening or when it is done."""
    opening, stepping, over = (Pulse(tmp_path, rank) for rank in range(3))
    stepping.beat(57)
    over.beat(57)
    over.over()
    later(monkeypatch, 7)
    assert hung(tmp_path, 8) == []
    later(monkeypatch, 9)
    (found,) = hung(tmp_path, 8)
    assert str(found) == (
        f"rank 1 (process {os.getpid()}) hangs: nothing from it since step 57 for 9 s"
    )
    del opening


def test_who_waits_in_vain_does_not_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of three ranks say that nobody answered: the third is meant, after half the time."""
    pulses = [Pulse(tmp_path, rank) for rank in range(3)]
    later(monkeypatch, 0)
    for pulse in pulses:
        pulse.beat(3)
    later(monkeypatch, 4)
    for rank in (0, 2):
        pulses[rank].forsaken()
    assert hung(tmp_path, 8) == []  # the third may be about to say the same
    later(monkeypatch, 5.5)
    assert [sign.rank for sign in hung(tmp_path, 8)] == [1]


# Mistakes, and the launcher's own end ----------------------------------------------------------


def test_the_samples_of_a_broken_loss_are_named_by_their_own_rank(tmp_path: Path) -> None:
    """Two ranks; the loss of one half of the batch is above the limit: its keys are told."""
    make_shards(tmp_path)
    job = prepare(tmp_path, params_of("ddp", processes=2, batch_size=60))
    images = open_split(tmp_path, "train", input_shape=job.input_shape, loading=job.loading)
    model = initial_model(base_architecture(job.train), images, job.data, job.train)
    losses: dict[float, set[str]] = {}
    for rank in range(2):
        plan = plan_of(images, seed=job.train.seed, batch_size=60, share=Share(rank, 2))
        own = next(plan.steps(0, 1)).own()
        logits = model(torch.from_numpy(to_input(images.take(own))))
        wanted = torch.from_numpy(images.targets_N[own])
        loss = F.cross_entropy(logits, wanted, label_smoothing=job.train.label_smoothing)
        losses[loss.item()] = {images.keys[int(position)] for position in own}
    limit = sum(losses) / 2
    job = prepare(tmp_path, params_of("ddp", processes=2, batch_size=60, max_loss=limit))
    with pytest.raises(TrainingError, match="look at the images of this step") as error:
        train_processes(job, lambda _: None, print)
    keys = json.loads((job.folder / "suspects.json").read_bytes())
    assert set(keys) == losses[max(losses)]
    assert all(repr(key) in str(error.value) for key in keys[:5])


_LAUNCHER = """
import sys
from pathlib import Path
from imagemill.train.job import Job
from imagemill.train.launch import train_processes
from pipelines.processes import Stopped, raise_when_stopped

raise_when_stopped()
try:
    train_processes(
        Job.read(Path(sys.argv[1])),
        lambda line: print(line.get("step", 0), flush=True),
        lambda told: print(told, flush=True),
    )
except Stopped as stopped:
    raise SystemExit(stopped.exit_status)
"""


@pytest.mark.parametrize("asked", ["launcher", "agent"])
def test_whoever_is_asked_to_end_a_checkpoint_is_written(asked: str, tmp_path: Path) -> None:
    """SIGTERM to the stage or to torch.distributed.run: ten seconds, to be resumed, no orphans."""
    make_shards(tmp_path)
    job = prepare(tmp_path, params_of("single", epochs=4000, checkpoint_seconds=1000))
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(job.folder / "job.json")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    while int(launcher.stdout.readline()) == 0:  # notes, before the first step
        pass
    below = psutil.Process(launcher.pid).children(recursive=True)
    agent = next(process for process in below if "torch.distributed.run" in process.cmdline())
    asked_at = time.monotonic()
    os.kill({"launcher": launcher.pid, "agent": agent.pid}[asked], signal.SIGTERM)
    said, _ = launcher.communicate(timeout=60)
    assert time.monotonic() - asked_at < 10
    assert "to be resumed" in said.splitlines()[-1]
    assert launcher.returncode == {"launcher": 128 + signal.SIGTERM, "agent": 1}[asked]
    assert psutil.wait_procs(below, timeout=5)[1] == []
    assert newest_checkpoint(job.folder / "checkpoints") is not None


def test_a_killed_stage_takes_its_training_along(tmp_path: Path) -> None:
    """kill -9 of the stage: nothing trains on in a folder that the next run will take up."""
    make_shards(tmp_path)
    job = prepare(tmp_path, params_of("ddp", processes=2, epochs=4000))
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(job.folder / "job.json")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    while int(launcher.stdout.readline()) == 0:
        pass
    below = psutil.Process(launcher.pid).children(recursive=True)
    assert len(below) >= 3  # the agent and two ranks
    launcher.kill()
    launcher.communicate(timeout=60)
    assert psutil.wait_procs(below, timeout=10)[1] == []


# Several machines ----------------------------------------------------------------------------


def free_port() -> int:
    """Of this host."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


def test_one_machine_goes_on_when_the_other_is_lost(tmp_path: Path) -> None:
    """Two agents on this host train together; the second is killed with its worker."""
    make_shards(tmp_path)
    nodes = {
        "minimum": 1,
        "maximum": 2,
        "rendezvous": f"127.0.0.1:{free_port()}",
        "wait_seconds": 20,
    }
    params = params_of("ddp", nodes=nodes, restarts=1, timeout_seconds=60)
    write_params(tmp_path, params)
    job = prepare(tmp_path, params)
    command = [sys.executable, "-m", "imagemill.train.join"]
    second = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    killed: list[int] = []

    def follow(line: dict[str, Any]) -> None:
        if not killed and line.get("step", 0) > 100:
            below = psutil.Process(second.pid).children(recursive=True)
            killed.append(line["step"])
            for process in (psutil.Process(second.pid), *below):
                process.kill()

    try:
        train_processes(job, follow, print)
    finally:
        second.kill()
        second.wait()
    metrics = publish(job)
    assert killed
    assert metrics["processes"] == 1  # at the end
    assert metrics["resumed_at"] > 0
    assert [account["consumed"] for account in metrics["ledger"]] == [60] * 50
    assert {account["missing"] + account["duplicate"] for account in metrics["ledger"]} == {0}
