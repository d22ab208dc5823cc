"""Exactly once, proven by killing: `python tests/kill_loader.py [seed ...]`.

For each of 200 seeds order and ledger run in this process with simulated ranks and workers, stop
at a random step and go on with others. For each of 20 seeds real processes train: all of them are
ended by SIGKILL at a random step, and others, of another number, go on from the last checkpoint.
Each prints a line: what was missing, what came twice, and whether the global batches, image by
image, are those of a run that nobody stopped. Seeds given as arguments are run alone, with real
processes.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from loader_runs import AUGMENT, batches, make_project, train_images

from imagemill.loading import Ledger
from imagemill.loading.order import Order, Window, rank_range
from imagemill.loading.plan import Plan, Share
from imagemill.randomness import key_hashes

SIMULATED, KILLED = 200, 20
MAX_PROCESSES = 8  # ranks x (1 + workers)
SAMPLES, PER_SHARD, BATCH, EPOCHS = 119, 20, 7, 3
STEPS = 17 * EPOCHS
FIRST_CHECKPOINT = 16
_PATIENCE_SECONDS = 600


class Topology(NamedTuple):
    """Processes that train together, and the workers of each."""

    ranks: int
    workers: int

    def __str__(self) -> str:
        return f"{self.ranks} ranks x {self.workers} workers"


class Outcome(NamedTuple):
    """What a stopped and resumed run did."""

    said: str
    missing: int
    duplicate: int
    same_batches: bool

    @property
    def is_exact(self) -> bool:
        return (self.missing, self.duplicate, self.same_batches) == (0, 0, True)


# Order and ledger in one process -------------------------------------------------------------


def simulated(seed: int) -> Outcome:
    """Two epochs of a random data set, stopped at a random step."""
    random = np.random.default_rng(seed)
    before, after = (Topology(*map(int, random.integers([1, 0], [9, 5]))) for _ in range(2))
    size, batch = int(random.integers(9, 700)), int(random.integers(1, 65))
    order = _random_order(random, size, seed)
    whole = [step.positions_G for step in Plan(order, batch).steps(0, 2 * -(-size // batch))]
    kill = int(random.integers(0, len(whole) + 1))
    keys = [f"k{number}" for number in range(size)]
    counts, seen, missing, duplicate = np.zeros(size, np.int32), [], 0, 0
    for topology, first, last in ((before, 0, kill), (after, kill, len(whole))):
        ledgers = [Ledger(order.hashes_N, keys) for _ in range(topology.ranks)]
        done = Plan(order, batch).consumed(first)
        for rank, ledger in enumerate(
            ledgers
        ):  # the checkpoint has the sum; rank 0 goes on with it
            ledger.resume(counts, done, keep=rank == 0)
        ranks = [_steps(order, batch, topology, rank, first, last) for rank in _all(topology)]
        for steps in zip(*ranks, strict=True):
            for ledger, step in zip(ledgers, steps, strict=True):
                ledger.consume(step.own())
            seen.append(np.concatenate([_decoded(step, topology.workers) for step in steps]))
            counts = sum(ledger.counts for ledger in ledgers)
            if (steps[0].number + 1) % -(-size // batch) == 0:
                account = ledgers[0].close(counts)
                for ledger in ledgers[1:]:
                    ledger.close(counts)
                counts = np.zeros(size, np.int32)
                missing, duplicate = missing + account.missing, duplicate + account.duplicate
    is_same = len(seen) == len(whole) and all(map(np.array_equal, seen, whole))
    said = f"{size} samples, batch {batch}, {before} to {after} at step {kill} of {len(whole)}"
    return Outcome(said, missing, duplicate, is_same)


def _random_order(random: np.random.Generator, size: int, seed: int) -> Order:
    """Of the local layout, or of the streaming one with a random window."""
    hashes_N = key_hashes([f"k{number}" for number in range(size)])
    if seed % 2:
        return Order(hashes_N, seed)
    shards = int(random.integers(1, 12))
    shard_N = random.integers(0, shards, size).astype(np.int32)
    names = key_hashes([f"shard {number}" for number in range(shards)])
    return Order(hashes_N, seed, Window(int(random.integers(1, 6)), shard_N, names))


def _all(topology: Topology) -> range:
    return range(topology.ranks)


def _steps(order: Order, batch: int, topology: Topology, rank: int, *limits: int) -> Iterator[Any]:
    return Plan(order, batch, Share(rank, topology.ranks)).steps(*limits)


def _decoded(step: Any, workers: int) -> np.ndarray:
    """A rank's samples as its workers share them out, put together again."""
    rows = [
        step.positions_R[rank_range(len(step.positions_R), rank=number, world=workers or 1)]
        for number in range(workers or 1)
    ]
    return np.concatenate(rows)[: step.num_own]


# Real processes and SIGKILL ------------------------------------------------------------------


def killed(seed: int, folder: Path) -> Outcome:
    """A training whose processes are all killed at a random step, and that others go on with."""
    random = np.random.default_rng(seed)
    before, after = _random_topology(random), _random_topology(random)
    layout = ("local", "streaming")[seed % 2]
    root = make_project(folder, train=SAMPLES, per_shard=PER_SHARD)
    kill = int(random.integers(FIRST_CHECKPOINT + 1, STEPS - 2))
    _train(root, before, layout, until=kill)
    resumed_at = _checkpoint(root)
    records = _records(root, before, 0, resumed_at)
    ledger = _train(root, after, layout, until=None)
    records += _records(root, after, resumed_at, STEPS)
    expected = _expected(root, layout)
    missing = sum(account["missing"] for account in ledger)
    duplicate = sum(account["duplicate"] for account in ledger)
    is_same = (
        records == expected and [account["consumed"] for account in ledger] == [SAMPLES] * EPOCHS
    )
    said = f"{layout}, {before} killed at step {kill}, {after} from step {resumed_at} of {STEPS}"
    return Outcome(said, missing, duplicate, is_same)


def _random_topology(random: np.random.Generator) -> Topology:
    while True:
        found = Topology(*map(int, random.integers([1, 0], [9, 5])))
        if found.ranks * (1 + found.workers) <= MAX_PROCESSES:
            return found


def _train(
    root: Path, topology: Topology, layout: str, *, until: int | None
) -> Sequence[dict[str, Any]]:
    """Start all ranks; kill everything once rank 0 has begun a step, or wait for the ledger."""
    for old in root.glob("rank-*.jsonl"):
        old.unlink()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "WORLD_SIZE": str(topology.ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "WORKERS": str(topology.workers),
        "LAYOUT": layout,
    }
    command = [sys.executable, __file__, "rank", str(root)]
    with (root / "ranks.log").open("wb") as log:
        ranks = [
            subprocess.Popen(command, env=os.environ | told | {"RANK": str(rank)}, stderr=log)
            for rank in range(topology.ranks)
        ]
    try:
        if until is not None:
            _wait_for_step(root, until, ranks)
            return []
        statuses = [rank.wait(_PATIENCE_SECONDS) for rank in ranks]
        assert statuses == [0] * topology.ranks, (root / "ranks.log").read_text()
        accounts: list[dict[str, Any]] = json.loads((root / "ledger.json").read_text())
        return accounts
    finally:
        _kill(ranks)


def _wait_for_step(root: Path, step: int, ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    file = root / "rank-0.jsonl"
    while not file.exists() or len(file.read_text().splitlines()) <= step:
        assert time.monotonic() < deadline, f"step {step} was not reached"
        assert all(rank.poll() is None for rank in ranks), (root / "ranks.log").read_text()
        time.sleep(0.01)


def _kill(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """SIGKILL to the ranks alone: their workers have to notice by themselves."""
    below: list[psutil.Process] = []
    for rank in ranks:
        if rank.poll() is None:
            below += psutil.Process(rank.pid).children(recursive=True)
    for rank in ranks:
        rank.kill()
    for rank in ranks:
        rank.wait()
    assert psutil.wait_procs(below, timeout=10)[1] == [], "orphans"


def _checkpoint(root: Path) -> int:
    """The step the newest whole checkpoint goes on from; 0 if there is none."""
    steps = [json.loads(file.read_text())["step"] for file in root.glob("c/step-*/state.json")]
    return max(steps, default=0)


Record = tuple[list[int], list[int]]  # positions and checksums of images of a global batch


def _records(root: Path, topology: Topology, first: int, last: int) -> list[Record]:
    """What all ranks computed on, together, in some steps."""
    files = [root / f"rank-{rank}.jsonl" for rank in _all(topology)]
    told = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    by_step = [{line["step"]: line for line in lines} for lines in told]
    return [
        (
            [position for lines in by_step for position in lines[step]["own"]],
            [checksum for lines in by_step for checksum in lines[step]["images"]],
        )
        for step in range(first, last)
    ]


def _expected(root: Path, layout: str) -> list[Record]:
    """The run that nobody stopped: one rank, no worker."""
    import loader_runs

    loader_runs.BATCH = BATCH
    got = batches(root, 0, STEPS, workers=0, **_layout(layout))
    return [(each.own, checksums(each.images)) for each in got]


def checksums(images: np.ndarray) -> list[int]:
    return [zlib.crc32(image.tobytes()) for image in images]


def _layout(layout: str) -> dict[str, Any]:
    return {"layout": layout, "remote": "data", "window_shards": 2}


def train_rank(root: Path) -> None:
    """What each rank does: `imagemill.train.loop.fit`, with a record of its batches."""
    import torch
    import torch.distributed
    from test_train import fresh, settings

    from imagemill.train import loop

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.distributed.init_process_group("gloo")
    images = train_images(root, workers=int(os.environ["WORKERS"]), **_layout(os.environ["LAYOUT"]))
    loop.Loader = _recording(loop.Loader, root / f"rank-{rank}.jsonl")
    params = settings(batch_size=BATCH, epochs=EPOCHS, strategy="ddp")
    result = loop.fit(
        fresh(),
        images,
        train=params.train,
        augment=AUGMENT,
        epochs=EPOCHS,
        learning_rate=0.01,
        teacher=None,
        report=lambda progress: None,
        ranks=loop.Ranks(rank, world, torch.device("cpu")),
        checkpoints=root / "c",
    )
    if rank == 0:
        accounts = [account._asdict() for account in result.ledger]
        (root / "ledger.json").write_text(json.dumps(accounts))
    torch.distributed.destroy_process_group()


def _recording(kind: type, file: Path) -> type:
    """A loader that writes down what it hands out."""

    class Recording(kind):
        def batches(self, first: int, last: int) -> Iterator[Any]:
            with file.open("w", buffering=1) as stream:
                for batch in super().batches(first, last):
                    own, images = batch.step.own().tolist(), batch.images_RHWC
                    told = {"own": own, "images": checksums(images[: len(own)])}
                    stream.write(json.dumps({"step": batch.step.number, **told}) + "\n")
                    yield batch

    return Recording


def main(arguments: Sequence[str]) -> int:
    """Run all, or the seeds given; print a line each and the sum."""
    outcomes = []
    for seed in range(0 if arguments else SIMULATED):
        outcomes.append(_told(f"simulated {seed}", simulated(seed)))
    for seed in map(int, arguments) if arguments else range(KILLED):
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(_told(f"killed {seed}", killed(seed, Path(folder))))
    wrong = [outcome for outcome in outcomes if not outcome.is_exact]
    print(
        f"{len(outcomes)} runs: missing {sum(each.missing for each in outcomes)}, duplicate "
        f"{sum(each.duplicate for each in outcomes)}, other batches "
        f"{sum(not each.same_batches for each in outcomes)}"
    )
    return 1 if wrong else 0


def _told(name: str, outcome: Outcome) -> Outcome:
    same = "same batches" if outcome.same_batches else "OTHER BATCHES"
    print(
        f"{name}: {outcome.said}: missing {outcome.missing}, duplicate {outcome.duplicate}, {same}",
        flush=True,
    )
    return outcome


if __name__ == "__main__":
    if sys.argv[1:2] == ["rank"]:
        train_rank(Path(sys.argv[2]))
    else:
        raise SystemExit(main(sys.argv[1:]))
