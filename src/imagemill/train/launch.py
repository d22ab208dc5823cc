"""Start training processes, follow them, start them again if one is lost. Imports no torch."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from imagemill.errors import TrainingError
from imagemill.train.job import ERROR, JOB, LINES, LOG, STOPPED, Job, Line

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10
_TAIL_LINES = 15


def train_processes(job: Job, on_line: Callable[[Line], None]) -> None:
    """Run the job's processes to their end.

    Args:
        job: What to train.
        on_line: Called with each new line of metrics.jsonl.

    A process that is lost takes its group down, and torch.distributed.run starts it again from
    the last checkpoint, `train.restarts` times; not after a mistake of the user's.

    Raises:
        TrainingError: a process failed; with its own words where it left some.
    """
    (job.folder / LINES).touch()
    with (job.folder / LINES).open(encoding="utf-8") as lines:
        lines.seek(0, os.SEEK_END)  # what an earlier attempt wrote was told then
        with _processes(job) as group:
            while group.poll() is None and not (job.folder / ERROR).is_file():
                time.sleep(_POLL_SECONDS)
                _forward(lines, on_line)
        _forward(lines, on_line)
    if group.returncode != 0:
        raise TrainingError(_reason(job, group.returncode))


@contextmanager
def _processes(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """torch.distributed.run with the workers under it; gone when the block is left."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(job.train.processes)),
        *("--max-restarts", str(job.train.restarts)),
        *("-m", "imagemill.train.worker", str(job.folder / JOB)),
    ]
    threads = {"OMP_NUM_THREADS": str(job.train.threads)}
    with (job.folder / LOG).open("wb") as log:
        group = subprocess.Popen(
            command, cwd=job.root, env=os.environ | threads, stdout=log, stderr=log
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


def _forward(lines: Iterator[str], on_line: Callable[[Line], None]) -> None:
    for line in lines:
        on_line(json.loads(line))


def _reason(job: Job, status: int) -> str:
    error = job.folder / ERROR
    if error.is_file():
        return error.read_text(encoding="utf-8").strip()
    stopped = job.folder / STOPPED
    if stopped.is_file():
        return stopped.read_text(encoding="utf-8").strip()
    log = job.folder / LOG
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    return (
        f"training ended with status {status}; the next run goes on from its last checkpoint. "
        f"The end of {log}:\n{tail}"
    )
