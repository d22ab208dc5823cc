"""torch.distributed.run, or a driver of Ray, as a subprocess. Imports no torch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from imagemill.params import NodesParams
from imagemill.train.job import JOB, LOG, Job

# A checkpoint has to be written in ten; then the agent ends by itself.
_GRACE_SECONDS = 15
# torch 2.14 keeps the store of addresses over restarts: a rank that is started again first would
# find the address of one that was killed. So each round gets a store of its own.
_FRESH_STORE = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def agent_command(job: Job, processes: int) -> list[str]:
    """The command that starts and watches this machine's processes; with Ray, those of its cluster.

    Args:
        job: What to train.
        processes: How many here.
    """
    if job.train.launcher == "ray":
        return [sys.executable, "-m", "imagemill.train.ray_launch", str(job.folder / JOB)]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(_meeting(job, job.train.nodes) if job.train.nodes else ["--standalone"]),
        *("--nproc-per-node", str(processes)),
        *("--max-restarts", str(job.train.restarts)),
        *("-m", "imagemill.train.worker", str(job.folder / JOB)),
    ]


def _below_this_process(command: list[str]) -> list[str]:
    """The same, to end with this process however it ends; its workers end with the agent."""
    python, _, *module = command
    return [python, "-m", "imagemill.train.below", str(os.getpid()), *module]


def _meeting(job: Job, nodes: NodesParams) -> list[str]:
    return [
        *("--nnodes", f"{nodes.minimum}:{nodes.maximum}"),
        *("--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", nodes.rendezvous),
        *("--rdzv-id", job.folder.name),
        *("--rdzv-conf", f"last_call_timeout={round(nodes.wait_seconds)}"),
    ]


@contextmanager
def agent(job: Job, processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """That command at work; it and the processes below it are gone when the block is left."""
    environment = {"OMP_NUM_THREADS": str(job.train.threads), **_FRESH_STORE}
    with (job.folder / LOG).open("ab") as log:
        group = subprocess.Popen(
            _below_this_process(agent_command(job, processes)),
            cwd=job.root,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )
    try:
        yield group
    finally:
        if group.poll() is None:
            group.terminate()
            try:
                group.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                group.kill()  # the workers ask the kernel to end with it
                group.wait()
