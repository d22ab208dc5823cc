"""One case in a process of its own: `python -m benchmarks.trainers CASE NET THREADS SECONDS`.

Says "ready" after its first steps, waits for a line, trains for so many seconds and prints the
images, the CPU seconds and the seconds that took. Under `torch.distributed.run` all ranks train
together, each pinned to its share of the cores; rank 0 speaks for them.
"""

import json
import os
import sys
import time
from typing import Any

import torch
import torch.distributed
from torch import nn

from benchmarks.trainers.cases import CASES, RATE
from benchmarks.trainers.meter import EnoughError
from benchmarks.trainers.work import WORKS, Tensors, no_augmentation, params
from imagemill.train.loop import fit
from imagemill.train.machine import choose_machine, keep_freed_memory, pin_to_core
from imagemill.train.ranks import Ranks

WARM_UP = 3
DDP = "ddp"


def main(case: str, net: str, threads: int, seconds: float) -> None:
    """Train until the time is over."""
    torch.set_num_threads(threads)
    model = WORKS[net].model()
    clock = _Clock(model, seconds, WORKS[net].batch)
    try:
        if case == DDP:
            _ddp(model, net, threads)
        else:
            layout = CASES[case].channels_last
            data = None if layout is None else Tensors(WORKS[net], channels_last=layout)
            CASES[case].train(model, WORKS[net], data)
    except EnoughError:
        pass
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(clock.told), flush=True)
    os._exit(0)  # ranks do not end at the same step: nobody waits for another


class _Clock:
    """Stops a training after so many seconds, seen from inside its net."""

    def __init__(self, net: nn.Module, seconds: float, batch: int) -> None:
        self._seconds, self._batch, self._seen = seconds, batch, 0
        self._start = self._cpu = 0.0
        self.told: dict[str, float] = {}
        net.register_forward_pre_hook(self._mark)

    def _mark(self, net: nn.Module, inputs: Any) -> None:
        del net, inputs
        self._seen += 1
        if self._seen == WARM_UP:
            if "RANK" not in os.environ:
                print("ready", flush=True)
                sys.stdin.readline()
            self._start, self._cpu = time.monotonic(), time.process_time()
        elif self._seen > WARM_UP and time.monotonic() - self._start >= self._seconds:
            self.told = {
                "images": (self._seen - WARM_UP) * self._batch,
                "cpu_seconds": time.process_time() - self._cpu,
                "seconds": time.monotonic() - self._start,
            }
            raise EnoughError


def _ddp(model: nn.Module, net: str, threads: int) -> None:
    keep_freed_memory()
    local_rank, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    pin_to_core(local_rank, local_world)
    train = params(
        WORKS[net],
        learning_rate=RATE,
        threads=threads,
        strategy="ddp",
        processes=local_world,
    )
    machine = choose_machine(train, local_rank=local_rank)
    torch.distributed.init_process_group("gloo")
    fit(
        model,
        WORKS[net].opened(),
        train=train,
        augment=no_augmentation(),
        epochs=train.epochs,
        learning_rate=RATE,
        teacher=None,
        report=lambda progress: None,
        ranks=Ranks(local_rank, local_world, machine.device),
        machine=machine,
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
