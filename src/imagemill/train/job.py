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
    RANDOM,
    SHARD_INDEX,
    SHARD_MANIFEST,
    STATE,
    Architecture,
    Record,
    ShardManifest,
    Start,
    sha256_of_file,
    write_bytes,
)
from imagemill.train.origin import FROM_NOTHING, Origin
from imagemill.train.subset import write_few_shot, write_unlabelled

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
BODY = "body.safetensors"  # what pre-training leaves: a model without its head
SOURCE = "source"  # folder of the project a job learns from, if that is a part of the whole
# Not how many do it, and how: a checkpoint is gone on with on any number of processes.
_TOPOLOGY = {
    *("strategy", "processes", "nodes", "launcher", "threads", "keep_memory", "restarts"),
    *("checkpoint_seconds", "keep_checkpoints", "timeout_seconds", "watch"),
}

Line = dict[str, Any]


def base_architecture(train: TrainParams) -> Architecture:
    """Name and arguments of the base model."""
    arguments = {
        "width": 1.0 if train.width is None else train.width,
        "dropout": train.dropout,
        "stochastic_depth": train.stochastic_depth,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return Architecture(name=train.model, arguments=given)


NOTE = "note"  # a line with this key alone is a sentence for a person


class Job(Record):
    """All that a training process needs to know, as `job.json` in its folder."""

    root: Path
    folder: Path  # .imagemill/train/<key>: the same work has the same folder, so it is resumed
    train: TrainParams
    augment: AugmentParams
    loading: LoadingParams
    data: ShardManifest
    start: Start = RANDOM
    weights: Path | None = None  # what it starts from, as `start` tells it
    source: Path  # the project whose train split it learns from; the root, or a part of it
    pretrains: bool = False  # to learn from images without labels, not to train the model
    keeps_model: bool = True  # whether the model is written out at the end, or only its curves

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
    root: Path,
    params: Params,
    origin: Origin = FROM_NOTHING,
    *,
    below: Path = STATE / "train",
    keeps_model: bool = True,
) -> Job:
    """Write the job of training the base model; an unfinished one of the same work is taken up.

    Args:
        root: The project's root.
        params: All sections.
        origin: What it starts from.
        below: Where in the project jobs have their folders.
        keeps_model: Whether the model is written out at the end, or only its curves.

    Raises:
        IntegrityError: shards or index are missing.
    """
    said = {
        "train": params.train.model_dump(mode="json", exclude=_TOPOLOGY),
        "index": sha256_of_file(root / AUGMENTED_INDEX),
    }
    job = _job(root, params, origin, said, "", below=below)
    job.keeps_model = keeps_model
    transfer = params.train.transfer
    if transfer is not None and transfer.images_per_class is not None:
        job.source = job.folder / SOURCE
        write_few_shot(job.root, job.source, transfer.images_per_class, seed=params.train.seed)
    job.write(job.folder / JOB)
    return job


def begun_job(root: Path, params: Params) -> Job | None:
    """The job that the first of several machines has begun for these settings and this data.

    Raises:
        IntegrityError: shards or index are missing.
    """
    digest = ShardManifest.read(root / SHARD_MANIFEST).digest
    files = (root / STATE / "train").glob(f"*/{JOB}")
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        job = Job.read(file)
        if job.train == params.train and job.data.digest == digest:
            return job
    return None


def prepare_pretraining(root: Path, params: Params, origin: Origin) -> Job:
    """Write the job of learning from images without labels: by all-reduce where there are several
    processes, whatever the strategy, on this machine.

    The same work has the same folder and its result stays there, so it is done once.

    Args:
        root: The project's root.
        params: All sections.
        origin: What it starts from.

    Raises:
        IntegrityError: shards or index are missing.
    """
    strategy = "single" if params.train.strategy == "single" else "ddp"
    here = {"strategy": strategy, "asynchronous": None, "nodes": None, "launcher": "torchrun"}
    train = params.train.model_copy(update=here | {"transfer": None})  # that comes afterwards
    elsewhere = {"transfer", "epochs", "batch_size", "learning_rate", "init_from"}
    said = {
        "train": train.model_dump(mode="json", exclude=_TOPOLOGY | elsewhere),
        "index": sha256_of_file(root / SHARD_INDEX),
    }
    job = _job(root, params.model_copy(update={"train": train}), origin, said, "pretrain-")
    job.source, job.pretrains = job.folder / SOURCE, True
    write_unlabelled(job.root, job.source)
    job.write(job.folder / JOB)
    return job


def pretrained(job: Job) -> Origin | None:
    """What a job of pre-training left to start from; None: it is not done."""
    file = job.folder / BODY
    if not file.is_file():
        return None
    sizes = job.data.splits
    count = sum(sizes[split].num_samples for split in ("train", "unlabelled") if split in sizes)
    name = f"pre-training on {count:,} images without labels"
    if job.weights is not None:
        name += f" that started from {job.start.name}"
    return Origin(Start(kind="pretrained", name=name, sha256=sha256_of_file(file)), file)


def _job(
    root: Path,
    params: Params,
    origin: Origin,
    said: dict[str, Any],
    kind: str,
    *,
    below: Path = STATE / "train",
) -> Job:
    """A job in the folder that belongs to what is `said` of it, cleared of old messages."""
    data = ShardManifest.read(root / SHARD_MANIFEST)
    said |= {
        "augment": params.augment.model_dump(mode="json", include={"seed", "online"}),
        "loading": params.loading.resize,
        "order": params.loading.order,
        "data": data.digest,
        "start": origin.start.sha256,
    }
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    folder = root.resolve() / below / f"{kind}{key}"
    shutil.rmtree(folder / OUTPUT, ignore_errors=True)
    for told in (ERROR, FAULT, STOPPED):
        (folder / told).unlink(missing_ok=True)
    return Job(
        root=root.resolve(),
        folder=folder,
        train=params.train,
        augment=params.augment,
        loading=params.loading,
        data=data,
        start=origin.start,
        weights=origin.file,
        source=root.resolve(),
    )


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
