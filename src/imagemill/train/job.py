"""The job of a training: what it is told, where it works, and how its model is published."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from imagemill.errors import DiskError, IntegrityError
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

JOB, LINES, METRICS, LOG, ERROR, FAULT, OUTPUT, CHECKPOINTS, STOPPED = (
    "job.json",
    "metrics.jsonl",
    "metrics.json",
    "worker.log",
    "error.txt",
    "fault.txt",
    "output",
    "checkpoints",
    "stopped.json",
)
# Not how many do it, and how: a checkpoint is gone on with on any number of processes.
_TOPOLOGY = {
    *("strategy", "processes", "nodes", "launcher", "threads", "keep_memory", "restarts"),
    *("checkpoint_seconds", "keep_checkpoints", "timeout_seconds", "watch"),
}

Line = dict[str, Any]


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


def prepare(root: Path, params: Params) -> Job:
    """Write the job of training the base model; an unfinished one of the same work is taken up.

    Raises:
        IntegrityError: shards or index are missing.
    """
    folder = job_folder(root, params)
    job = Job(
        root=root.resolve(),
        folder=folder,
        train=params.train,
        augment=params.augment,
        loading=params.loading,
        data=ShardManifest.read(root / SHARD_MANIFEST),
    )
    shutil.rmtree(folder / OUTPUT, ignore_errors=True)
    for told in (ERROR, FAULT, STOPPED):
        (folder / told).unlink(missing_ok=True)
    job.write(folder / JOB)
    return job


def job_folder(root: Path, params: Params) -> Path:
    """Where the training of the base model works: the same work has the same folder.

    Raises:
        IntegrityError: shards or index are missing.
    """
    data = ShardManifest.read(root / SHARD_MANIFEST)
    said = {
        "train": params.train.model_dump(mode="json", exclude=_TOPOLOGY),
        "augment": params.augment.model_dump(mode="json", include={"seed", "online"}),
        "loading": params.loading.resize,
        "order": params.loading.order,
        "data": data.digest,
        "index": sha256_of_file(root / AUGMENTED_INDEX),
    }
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    return root.resolve() / STATE / "train" / key


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


def _told_once(text: str) -> bytes:
    """The lines of all attempts in the order of steps; a repeated step counts as told last."""
    by_step = {json.loads(line)["step"]: line for line in text.splitlines()}
    return "".join(by_step[step] + "\n" for step in sorted(by_step)).encode()
