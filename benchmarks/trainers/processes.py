"""Cases in processes of their own: the CPU step, and two processes against one."""

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.results import Row
from benchmarks.trainers.__main__ import DDP
from benchmarks.trainers.work import PROJECT, WORKS

ROUNDS, SECONDS = 3, 10.0
PLAIN, OURS = "plain loop, float32, NCHW", "imagemill, freed memory kept"
STEP_NETS = ("seed_mnist", "resnet20", "efficientnet_lite0")
DDP_NETS = ("resnet18", "resnet18_256")


@dataclass(frozen=True)
class Rate:
    """What a process did; of several ranks rank 0's CPU time, which is like the others'."""

    images: float
    cpu_seconds: float
    seconds: float

    @property
    def per_cpu_second(self) -> float:
        return self.images / self.cpu_seconds

    @property
    def per_second(self) -> float:
        return self.images / self.seconds


def cpu_step() -> list[Row]:
    """Images per CPU second of our loop against a plain one.

    Both train at the same time on the same core, so that they meet the same machine.
    """
    rows = []
    for net in STEP_NETS:
        WORKS[net].opened()  # made here, once: two processes would make it twice
        rounds = [_together((PLAIN, OURS), net) for _ in range(ROUNDS)]
        plain = statistics.median(pair[0].per_cpu_second for pair in rounds)
        ours = statistics.median(pair[1].per_cpu_second for pair in rounds)
        ratio = statistics.median(
            pair[1].per_cpu_second / pair[0].per_cpu_second for pair in rounds
        )
        rows += [
            Row(f"{net}: {PLAIN}", plain, "images/CPU s"),
            Row(f"{net}: imagemill", ours, "images/CPU s", PLAIN, ratio),
        ]
    return rows


def ddp() -> list[Row]:
    """Two pinned processes of a thread each, against one process of one and of two threads."""
    return [row for net in DDP_NETS for row in _against_one(net)]


def _against_one(net: str) -> list[Row]:
    WORKS[net].opened()
    found: dict[str, list[Rate]] = {}
    for _ in range(ROUNDS):
        for name, ranks, threads in (("1 x 1", 1, 1), ("1 x 2", 1, 2), ("2 x 1", 2, 1)):
            found.setdefault(name, []).append(_ranks(net, ranks, threads))
    rates = {
        name: statistics.median(rate.per_second for rate in rates) for name, rates in found.items()
    }
    both = statistics.median(
        # As if both cores were free: twice what a rank does in a second of its own.
        two.per_cpu_second / one.per_cpu_second
        for one, two in zip(found["1 x 1"], found["2 x 1"], strict=True)
    )
    one, threaded, two = rates["1 x 1"], rates["1 x 2"], rates["2 x 1"]
    name = f"{WORKS[net].net} at {WORKS[net].size} px, {WORKS[net].batch} images a step"
    return [
        Row(f"{name}: 1 process of 1 thread", one, "images/s"),
        Row(f"{name}: 1 process of 2 threads", threaded, "images/s").against("1 thread", one),
        Row(f"{name}: ddp, 2 pinned processes", two, "images/s").against("1 thread", one),
        Row(f"{name}: ddp, 2 pinned processes", two, "images/s").against("2 threads", threaded),
        Row(f"{name}: ddp, 2 processes, by CPU time", both, "times 1 thread"),
    ]


def _together(cases: tuple[str, ...], net: str) -> list[Rate]:
    """Cases on one core at the same time."""
    core = max(os.sched_getaffinity(0))
    started = [
        subprocess.Popen(
            ["taskset", "-c", str(core), *_command(case, net, 1)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for case in cases
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "a case did not start"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [Rate(**json.loads(process.communicate()[0])) for process in started]


def _ranks(net: str, ranks: int, threads: int) -> Rate:
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(ranks), *_command(DDP, net, threads)[1:]),
    ]
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return Rate(**json.loads(done.stdout.strip().splitlines()[-1]))


def _command(case: str, net: str, threads: int) -> list[str]:
    module = [sys.executable, "-m", "benchmarks.trainers"]
    return [*module, case, net, str(threads), str(SECONDS)]
