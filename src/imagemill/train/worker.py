"""What each process of `torch.distributed.run` executes: `python -m imagemill.train.worker JOB`."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed

from imagemill.augment import RandomResizedCrop, compile_policy
from imagemill.errors import UserError
from imagemill.loading import SplitImages, open_split
from imagemill.loading.orphans import die_with_parent
from imagemill.records import Architecture, write_bytes
from imagemill.train.initial import initial_model, start_from
from imagemill.train.job import CHECKPOINTS, ERROR, LINES, NOTE, STOPPED, Job
from imagemill.train.judge import top1
from imagemill.train.loop import StoppedError, fit
from imagemill.train.machine import Machine, choose_machine, keep_freed_memory, pin_to_core
from imagemill.train.output import write_output
from imagemill.train.progress import FitResult, Progress
from imagemill.train.ranks import Ranks
from imagemill.train.stopping import StopRequest
from imagemill.train.watching.usage import peak_memory
from imagemill.train.watching.waiting import Waiting
from imagemill.train.watching.watch import Wanted

_KEEPS_MEMORY = ", freed memory is kept"
_TO_BE_RESUMED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


def main(job_file: Path) -> int:
    """Train the job's model; rank 0 writes it to the job's output folder.

    Returns:
        0; 2 for a mistake of the user's, whose sentence is left in error.txt; 75 if it was asked
        to end and can be gone on with.
    """
    request = StopRequest()
    request.listen()
    die_with_parent(os.getppid())
    job = Job.read(job_file)
    try:
        _train(job, request)
    except UserError as error:
        write_bytes(job.folder / ERROR, f"{error}\n".encode())
        print(error, file=sys.stderr)  # noqa: T201  # the worker's log
        return 2
    except StoppedError as stopped:
        told = f"training was {stopped}; a checkpoint is written, the next run goes on from there"
        write_bytes(job.folder / STOPPED, f"{told}\n".encode())
        return _TO_BE_RESUMED
    return 0


def _train(job: Job, request: StopRequest) -> None:
    local_rank, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    keeps_memory = job.train.keep_memory and keep_freed_memory()
    pin_to_core(local_rank, local_world)
    machine = choose_machine(job.train, local_rank=local_rank)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), machine.device)
    if ranks.world > 1:
        backend = "nccl" if machine.device.type == "cuda" else "gloo"
        timeout = timedelta(seconds=job.train.timeout_seconds)
        torch.distributed.init_process_group(backend, timeout=timeout)
    policy = compile_policy(job.augment.online, seed=job.augment.seed, online=True)
    images = _open_together(job, "train", ranks, policy.crop)
    val = _open_together(job, "val", ranks)
    architecture = architecture_of(job)
    model = initial_model(architecture, images, job.data, job.train)
    if job.train.init_from is not None:
        start_from(model, job.root / job.train.init_from)
    say = partial(_write_note, job.folder / LINES)
    if ranks.reports:
        say(f"computing on {machine}{_KEEPS_MEMORY if keeps_memory else ''}")
    start = time.monotonic()
    result = fit(
        model,
        images,
        train=job.train,
        augment=job.augment,
        epochs=job.train.epochs,
        learning_rate=job.train.learning_rate,
        teacher=None,
        report=partial(_write_line, job.folder / LINES),
        judge=lambda model: top1(model, val, machine, ranks),
        ranks=ranks,
        machine=machine,
        checkpoints=job.folder / CHECKPOINTS,
        request=request,
        watch=_wanted(job, images, say),
    )
    cpu_seconds = float(ranks.summed(torch.tensor(result.cpu_seconds, device=machine.device)))
    if ranks.reports and job.keeps_model:
        metrics = {
            **_metrics(job, result, machine),
            "num_images": len(images),
            "training_cpu_seconds": round(cpu_seconds, 2),
            "training_seconds": round(time.monotonic() - start, 2),
            "machine": str(machine),
        }
        write_output(job, model, architecture, val, metrics)
    if ranks.world > 1:
        torch.distributed.destroy_process_group()


def architecture_of(job: Job) -> Architecture:
    """The base model's architecture."""
    train = job.train
    arguments = {
        "width": 1.0 if train.width is None else train.width,
        "dropout": train.dropout,
        "stochastic_depth": train.stochastic_depth,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return Architecture(name=train.model, arguments=given)


def _open_together(
    job: Job, split: str, ranks: Ranks, crop: RandomResizedCrop | None = None
) -> SplitImages:
    """Open a split; rank 0 fills the decoded cache and the others find it."""
    if ranks.rank != 0:
        ranks.meet()
    images = open_split(
        job.root, split, input_shape=job.input_shape, loading=job.loading, crop=crop
    )
    if ranks.rank == 0:
        ranks.meet()
    return images


def _wanted(job: Job, images: SplitImages, say: Callable[[str], None]) -> Wanted:
    waiting = Waiting(
        job.loading,
        is_cached=images.is_cached,
        crop=images.crop is not None,
        decoded_bytes=len(images) * math.prod(images.input_shape),
    )
    return Wanted(
        settings=job.train.watch,
        board=job.board,
        trace=job.trace,
        activations=not job.train.compile,
        waiting=waiting,
        say=say,
    )


def _write_note(path: Path, sentence: str) -> None:
    """Append a sentence for a person to metrics.jsonl."""
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({NOTE: sentence}) + "\n")


def _write_line(path: Path, progress: Progress) -> None:
    """Append a line to metrics.jsonl; what was not measured is left out."""
    line = asdict(progress)
    account, measured = line.pop("ledger"), line.pop("measured")
    line = {name: value for name, value in (line | measured).items() if value is not None}
    if account is not None:
        line["ledger"] = account._asdict()
    del line["ends_epoch"], line["seconds"]
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _metrics(job: Job, result: FitResult, machine: Machine) -> dict[str, object]:
    return {
        "loss": result.loss,
        "epochs": job.train.epochs,
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "best_epoch": result.best_epoch,
        "wait_share": round(result.wait_share, 4),
        "energy_joules": result.energy_joules,
        "peak_memory_bytes": peak_memory(machine.device),
        "ledger": [account._asdict() for account in result.ledger],
        "processes": job.train.processes,
    }


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
