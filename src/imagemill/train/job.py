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

JOB, LINES, METRICS, LOG, ERROR, OUTPUT, CHECKPOINTS, STOPPED = (
    "job.json",
    "metrics.jsonl",
    "metrics.json",
    "worker.log",
    "error.txt",
    "output",
    "checkpoints",
    "stopped.txt",
)
# Not how many do it, and how: a checkpoint is gone on with on any number of processes.
_TOPOLOGY = {
    *("strategy", "processes", "nodes", "launcher", "threads", "keep_memory", "restarts"),
    *("checkpoint_seconds", "keep_checkpoints", "timeout_seconds", "watch"),
}

Line = dict[str, Any]
NOTE = "note"  # a line with this key alone is a sentence for a person


class Job(Record):
    """All that a training process needs to know, as `job.json` in its folder."""

    root: Path
    folder: Path  # .imagemill/train/<key>: the same work has the same folder, so it is resumed
    train: TrainParams
    augment: AugmentParams
    loading: LoadingParams
    data: ShardManifest
    keeps_model: bool  # whether the model is written out at the end, or only its curves

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return self.data.channels, self.train.input_size, self.train.input_size

    @property
    def board(self) -> Path:
        """Folder of TensorBoard's event files; it stays when the job is done."""
        return self.root / STATE / "tensorboard" / f"{self.train.model}-{self.folder.name}"

    @property
    def trace(self) -> Path:
        """What torch's profiler saw."""
        return self.root / STATE / "profile" / self.folder.name / "trace.json"


def prepare(
    root: Path, params: Params, *, below: Path = STATE / "train", keeps_model: bool = True
) -> Job:
    """Write the job of training the base model; an unfinished one of the same work is taken up.

    Args:
        root: The project's root.
        params: All of params.yaml.
        below: Where in the project jobs have their folders.
        keeps_model: Whether the model is written out at the end.

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
    folder = root.resolve() / below / key
    job = Job(
        root=root.resolve(),
        folder=folder,
        train=params.train,
        augment=params.augment,
        loading=params.loading,
        data=data,
        keeps_model=keeps_model,
    )
    shutil.rmtree(folder / OUTPUT, ignore_errors=True)
    for told in (ERROR, STOPPED):
        (folder / told).unlink(missing_ok=True)
    job.write(folder / JOB)
    return job


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
    """The lines of all attempts in the order of steps; a repeated step counts as told last.

    Notes, which have no step, were for whoever listened.
    """
    told = [(json.loads(line), line) for line in text.splitlines()]
    by_step = {values["step"]: line for values, line in told if NOTE not in values}
    return "".join(by_step[step] + "\n" for step in sorted(by_step)).encode()
