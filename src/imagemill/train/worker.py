"""What each process of `torch.distributed.run` executes: `python -m imagemill.train.worker JOB`."""

import json
import os
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import nn

from imagemill.augment import RandomResizedCrop, compile_policy
from imagemill.errors import UserError
from imagemill.loading import SplitImages, open_split, to_input
from imagemill.loading.orphans import die_with_parent
from imagemill.models import count_macs, count_parameters, save_weights
from imagemill.models.saved import CARD, WEIGHTS
from imagemill.params import BASE
from imagemill.records import Architecture, ModelCard, sha256_of_file, write_bytes, write_json
from imagemill.runtimes import check_export, export_onnx
from imagemill.train.initial import initial_model, start_from
from imagemill.train.launch import CHECKPOINTS, ERROR, LINES, METRICS, OUTPUT, Job
from imagemill.train.loop import FitResult, Progress, Ranks, fit
from imagemill.train.machine import (
    Machine,
    choose_machine,
    keep_freed_memory,
    pin_to_core,
)
from imagemill.train.validate import top1

ONNX = "model.onnx"
_CHECKED_IMAGES = 64
_TIMEOUT = timedelta(minutes=10)


def main(job_file: Path) -> int:
    """Train the job's model; rank 0 writes it to the job's output folder.

    Returns:
        0, or 2 for a mistake of the user's, whose sentence is left in error.txt.
    """
    die_with_parent(os.getppid())
    job = Job.read(job_file)
    try:
        _train(job)
    except UserError as error:
        write_bytes(job.folder / ERROR, f"{error}\n".encode())
        print(error, file=sys.stderr)  # noqa: T201  # the worker's log
        return 2
    return 0


def _train(job: Job) -> None:
    local_rank, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    ranks = Ranks(rank=int(os.environ["RANK"]), world=int(os.environ["WORLD_SIZE"]))
    if job.train.keep_memory:
        keep_freed_memory()
    pin_to_core(local_rank, local_world)
    machine = choose_machine(job.train, local_rank=local_rank)
    if ranks.world > 1:
        backend = "nccl" if machine.device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=_TIMEOUT)
    policy = compile_policy(job.augment.online, seed=job.augment.seed, online=True)
    images = _open_together(job, "train", ranks, policy.crop)
    val = _open_together(job, "val", ranks)
    model = initial_model(_architecture(job), images, job.data, job.train)
    if job.train.init_from is not None:
        start_from(model, job.root / job.train.init_from)
    start = time.monotonic()
    result = fit(
        model,
        images,
        train=job.train,
        augment=job.augment,
        epochs=job.train.epochs,
        learning_rate=job.train.learning_rate,
        teacher=None,
        report=_Reporter(job, model, val, machine),
        ranks=ranks,
        machine=machine,
        checkpoints=job.folder / CHECKPOINTS,
    )
    cpu_seconds = float(ranks.summed(torch.tensor(result.cpu_seconds, device=machine.device)))
    if ranks.rank == 0:
        metrics = {
            **_metrics(job, result),
            "num_images": len(images),
            "training_cpu_seconds": round(cpu_seconds, 2),
            "training_seconds": round(time.monotonic() - start, 2),
            "machine": str(machine),
        }
        _write_output(job, model.cpu(), val, metrics)
    if ranks.world > 1:
        torch.distributed.destroy_process_group()


def _open_together(
    job: Job, split: str, ranks: Ranks, crop: RandomResizedCrop | None = None
) -> SplitImages:
    """Open a split; rank 0 fills the decoded cache and the others find it."""
    if ranks.rank != 0:
        torch.distributed.barrier()
    images = open_split(
        job.root, split, input_shape=job.input_shape, loading=job.loading, crop=crop
    )
    if ranks.rank == 0 and ranks.world > 1:
        torch.distributed.barrier()
    return images


class _Reporter:
    """Appends a line to metrics.jsonl for each report; at the end of an epoch with val's top-1."""

    def __init__(self, job: Job, model: nn.Module, val: SplitImages, machine: Machine) -> None:
        self._path = job.folder / LINES
        self._model, self._val, self._machine = model, val, machine

    def __call__(self, progress: Progress) -> None:
        line = asdict(progress)
        account = line.pop("ledger")
        if account is not None:
            line["ledger"] = account._asdict()
        if line.pop("ends_epoch"):
            line["val_top1"] = top1(self._model, self._val, self._machine)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def _metrics(job: Job, result: FitResult) -> dict[str, object]:
    return {
        "loss": result.loss,
        "epochs": job.train.epochs,
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "ledger": [account._asdict() for account in result.ledger],
        "processes": job.train.processes,
    }


def _write_output(job: Job, model: nn.Module, val: SplitImages, metrics: dict[str, object]) -> None:
    output = job.folder / OUTPUT
    model = model.to(memory_format=torch.contiguous_format).float().eval()
    metrics["val_top1"] = top1(model, val, Machine(torch.device("cpu"), torch.float32, False))
    save_weights(output / WEIGHTS, model)
    export_onnx(model, job.input_shape, output / ONNX)
    positions = np.arange(min(len(val), _CHECKED_IMAGES))
    metrics["onnx_difference"] = check_export(model, output / ONNX, [to_input(val.take(positions))])
    write_json(output / METRICS, metrics)
    files = {name: sha256_of_file(output / name) for name in (WEIGHTS, ONNX)}
    card = ModelCard(
        variant=BASE,
        parent=None,
        steps=[],
        architecture=_architecture(job),
        input_shape=job.input_shape,
        classes=job.data.classes,
        files=files,
        file=WEIGHTS,
        sha256=files[WEIGHTS],
        data_digest=job.data.digest,
        index_digest=job.data.index_digest,
        runtime="eager",
        resize=job.loading.resize,
        num_parameters=count_parameters(model),
        macs=count_macs(model, job.input_shape),
    )
    card.write(output / CARD)


def _architecture(job: Job) -> Architecture:
    return Architecture(name=job.train.model, arguments={"width": 1.0})


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
