"""Start training processes, follow them, publish what they made. Imports no torch."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imagemill.errors import DiskError, IntegrityError, TrainingError
from imagemill.params import BASE, AugmentParams, LoadingParams, Params, TrainParams
from imagemill.records import (
    AUGMENTED_INDEX,
    MODELS,
    SHARD_MANIFEST,
    STATE,
    Record,
    ShardManifest,
    sha256_of_file,
    write_bytes,
)

JOB, LINES, METRICS, LOG, ERROR, OUTPUT, CHECKPOINTS = (
    "job.json",
    "metrics.jsonl",
    "metrics.json",
    "worker.log",
    "error.txt",
    "output",
    "checkpoints",
)
_TOPOLOGY = {"processes", "threads", "keep_memory", "checkpoint_seconds"}
_POLL_SECONDS = 0.2
_GRACE_SECONDS = 10
_TAIL_LINES = 15


class Job(Record):
    """All that a training process needs to know, as `job.json` in its folder."""

    root: Path
    folder: Path  # .imagemill/train/<key>: the same work has the same folder, so it is resumed
    train: TrainParams
    augment: AugmentParams
    loading: LoadingParams
    data: ShardManifest

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.data.channels, self.train.input_size, self.train.input_size


Line = dict[str, Any]


def prepare(root: Path, params: Params) -> Job:
    """Write the job of training the base model; an unfinished one of the same work is taken up.

    Raises:
        IntegrityError: shards or index are missing.
    """
    data = ShardManifest.read(root / SHARD_MANIFEST)
    # Not how many do it, and how: a checkpoint is gone on with on any number of processes.
    said = {
        "train": params.train.model_dump(mode="json", exclude=_TOPOLOGY),
        "augment": params.augment.model_dump(mode="json", include={"seed", "online"}),
        "loading": params.loading.resize,
        "order": params.loading.order,
        "data": data.digest,
        "index": sha256_of_file(root / AUGMENTED_INDEX),
    }
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    folder = root.resolve() / STATE / "train" / key
    job = Job(
        root=root.resolve(),
        folder=folder,
        train=params.train,
        augment=params.augment,
        loading=params.loading,
        data=data,
    )
    shutil.rmtree(folder / OUTPUT, ignore_errors=True)
    (folder / ERROR).unlink(missing_ok=True)
    job.write(folder / JOB)
    return job


def train_processes(job: Job, on_line: Callable[[Line], None]) -> None:
    """Run the job's processes to their end.

    Args:
        job: What to train.
        on_line: Called with each new line of metrics.jsonl.

    Raises:
        TrainingError: a process failed; with its own words where it left some.
    """
    (job.folder / LINES).touch()
    with (job.folder / LINES).open(encoding="utf-8") as lines:
        lines.seek(0, os.SEEK_END)  # what an earlier attempt wrote was told then
        with _processes(job) as group:
            while group.poll() is None:
                time.sleep(_POLL_SECONDS)
                _forward(lines, on_line)
        _forward(lines, on_line)
    if group.returncode != 0:
        raise TrainingError(_reason(job, group.returncode))


def publish(job: Job) -> Line:
    """Move the finished model to models/base and forget the checkpoints.

    Returns:
        What metrics.json says of the training.

    Raises:
        IntegrityError: the processes left no model.
        DiskError: models/ cannot be written.
    """
    output = job.folder / OUTPUT
    if not (output / "model.json").is_file():
        raise IntegrityError(f"training left no model in {output}; see {job.folder / LOG}")
    write_bytes(output / LINES, _told_once((job.folder / LINES).read_text(encoding="utf-8")))
    final = job.root / MODELS / BASE
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        shutil.move(output, final)
    except OSError as error:
        raise DiskError(f"cannot write {final}: {error.strerror or error}") from error
    shutil.rmtree(job.folder)
    metrics: Line = json.loads((final / METRICS).read_bytes())
    return metrics


@contextmanager
def _processes(job: Job) -> Iterator[subprocess.Popen[bytes]]:
    """torch.distributed.run with the workers under it; gone when the block is left."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(job.train.processes)),
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
    log = job.folder / LOG
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:])
    return (
        f"training ended with status {status}; the next run goes on from its last checkpoint. "
        f"The end of {log}:\n{tail}"
    )


def _told_once(text: str) -> bytes:
    """The lines of all attempts in the order of steps; a repeated step counts as told last."""
    by_step = {json.loads(line)["step"]: line for line in text.splitlines()}
    return "".join(by_step[step] + "\n" for step in sorted(by_step)).encode()
