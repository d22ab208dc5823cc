"""What each process of `torch.distributed.run` executes: `python -m imagemill.train.worker JOB`."""

import json
import math
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from imagemill.augment import RandomResizedCrop, compile_policy
from imagemill.errors import UserError
from imagemill.loading import SplitImages, open_split
from imagemill.loading.orphans import die_with_parent
from imagemill.records import write_json
from imagemill.train.contact import contact, expect_answers, is_lost
from imagemill.train.heads import fit_head
from imagemill.train.initial import initial_model
from imagemill.train.job import (
    CHECKPOINTS,
    ERROR,
    FAULT,
    LINES,
    NOTE,
    OUTPUT,
    STOPPED,
    Job,
    base_architecture,
)
from imagemill.train.judge import top1
from imagemill.train.loop import StoppedError, fit
from imagemill.train.machine import Machine, choose_machine, keep_freed_memory, pin_to_core
from imagemill.train.output import write_output
from imagemill.train.pretrain import pretrain
from imagemill.train.progress import FitResult, Progress
from imagemill.train.pulse import Pulse, pulse_folder
from imagemill.train.ranks import Ranks
from imagemill.train.staleness import draw_staleness
from imagemill.train.stopping import StopRequest
from imagemill.train.watching.usage import peak_memory
from imagemill.train.watching.waiting import Waiting
from imagemill.train.watching.watch import Wanted
from imagemill.train.weights import put_weights

_KEEPS_MEMORY = ", freed memory is kept"
_TO_BE_RESUMED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again


def main(job_file: Path) -> int:
    """Train the job's model; rank 0 writes it to the job's output folder.

    Returns:
        0; 2 for a mistake of the user's, whose sentence is left in error.txt; 75 if it was asked
        to end and can be gone on with; 1 if another process was lost, or for a fault of ours.
    """
    request = StopRequest()
    request.listen()
    die_with_parent(os.getppid())
    return run_rank(Job.read(job_file), request)


def run_rank(job: Job, request: StopRequest) -> int:
    """What `main` does, whoever started this process and set RANK, WORLD_SIZE and their like."""
    if (status := _decided_before(job)) is not None:
        return status
    rank = int(os.environ["RANK"])
    pulse = Pulse(pulse_folder(job.folder), rank)
    try:
        _train(job, request, pulse)
    except UserError as error:
        _leave_word(job.folder / ERROR, f"{error}\n")
        print(error, file=sys.stderr)  # noqa: T201  # the worker's log
        return 2
    except StoppedError as stopped:
        if rank == 0:
            told = f"training was {stopped}; a checkpoint is written: to be resumed by the next run"
            write_json(job.folder / STOPPED, {"told": told, "restarts": _restarts()})
        return _TO_BE_RESUMED
    except Exception as error:
        traceback.print_exc()
        if is_lost(error):
            pulse.forsaken()
        else:
            _leave_word(job.folder / FAULT, traceback.format_exc())
        return 1
    return 0


def _decided_before(job: Job) -> int | None:
    """The status of a process that is started again although that changes nothing."""
    if (job.folder / ERROR).is_file():
        return 2
    stopped = job.folder / STOPPED
    if stopped.is_file():
        if json.loads(stopped.read_bytes())["restarts"] < _restarts():
            return _TO_BE_RESUMED
        # All were stopped by their agents, to start again with one more machine.
        stopped.unlink(missing_ok=True)
    return None


def _restarts() -> int:
    """How often torch.distributed.run has started processes again after a loss."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _leave_word(path: Path, text: str) -> None:
    """The first to fail knows why; what others say is what follows from it."""
    with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
        file.write(text)


def _train(job: Job, request: StopRequest, pulse: Pulse) -> None:
    local_rank, local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    say = partial(_write_note, job.folder / LINES)
    keeps_memory = job.train.keep_memory and keep_freed_memory()
    pin_to_core(local_rank, local_world)
    machine = choose_machine(job.train, local_rank=local_rank)
    ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), machine.device)
    if ranks.reports:
        say(f"computing on {machine}{_KEEPS_MEMORY if keeps_memory else ''}")
    learn = _pretrain_with if job.pretrains else _train_with
    with contact(ranks):
        learn(job, ranks, machine, request, pulse)


def _pretrain_with(
    job: Job, ranks: Ranks, machine: Machine, request: StopRequest, pulse: Pulse
) -> None:
    policy = compile_policy(job.augment.online, seed=job.augment.seed, online=True)
    images = _open_together(job, "train", ranks, policy.crop)
    expect_answers(ranks, job.train.timeout_seconds)
    pretrain(
        job,
        base_architecture(job.train),
        images,
        ranks=ranks,
        machine=machine,
        request=request,
        report=partial(_write_line, job.folder / LINES),
        beat=pulse.beat,
    )
    pulse.over()


def _train_with(
    job: Job, ranks: Ranks, machine: Machine, request: StopRequest, pulse: Pulse
) -> None:
    policy = compile_policy(job.augment.online, seed=job.augment.seed, online=True)
    images = _open_together(job, "train", ranks, policy.crop)
    val = _open_together(job, "val", ranks)
    architecture = base_architecture(job.train)
    model = initial_model(architecture, images, job.data, job.train)
    told = []
    if job.weights is not None:
        told = put_weights(model, job.weights, job.start, job.data.classes)
    say = partial(_write_note, job.folder / LINES)
    for sentence in told if ranks.reports else ():
        say(sentence)
    start = time.monotonic()
    expect_answers(ranks, job.train.timeout_seconds)
    transfer, report = job.train.transfer, partial(_write_line, job.folder / LINES)
    if transfer is not None and transfer.mode != "finetune":
        if ranks.reports and transfer.mode == "prototypes":
            say("prototypes: nothing is trained, train.epochs counts for nothing")
        result = fit_head(
            model,
            images,
            val,
            root=job.root,
            train=job.train,
            augment=job.augment,
            machine=machine,
            ranks=ranks,
            report=report,
        )
    else:
        result = fit(
            model,
            images,
            train=job.train,
            augment=job.augment,
            epochs=job.train.epochs,
            learning_rate=job.train.learning_rate,
            teacher=None,
            report=report,
            judge=lambda model: top1(model, val, machine, ranks, pulse.beat),
            ranks=ranks,
            machine=machine,
            checkpoints=job.folder / CHECKPOINTS,
            request=request,
            transfer=transfer,
            watch=_wanted(job, images, say),
            beat=pulse.beat,
        )
    cpu_seconds = float(ranks.summed(torch.tensor(result.cpu_seconds, device=machine.device)))
    pulse.over()
    if ranks.reports and job.keeps_model:
        metrics = {
            **_metrics(job, result, machine),
            "processes": ranks.world,
            "started_from": {
                **job.start.model_dump(mode="json", exclude={"classes"}),
                "told": told,
            },
            "num_images": len(images),
            "training_cpu_seconds": round(cpu_seconds, 2),
            "training_seconds": round(time.monotonic() - start, 2),
            "machine": str(machine),
        }
        write_output(job, model, architecture, val, metrics)
        draw_staleness(job.folder / LINES, job.folder / OUTPUT)


def _open_together(
    job: Job, split: str, ranks: Ranks, crop: RandomResizedCrop | None = None
) -> SplitImages:
    """Open a split; rank 0 fills the decoded cache and the others find it."""
    if ranks.rank != 0:
        ranks.meet()
    root = job.source if split == "train" else job.root
    images = open_split(root, split, input_shape=job.input_shape, loading=job.loading, crop=crop)
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
    # Rank 0 looks alone: where its layers talk to other ranks, it cannot go through them apart.
    talks = job.train.strategy == "fsdp" or job.train.synchronise_norms
    return Wanted(
        settings=job.train.watch,
        board=job.board,
        trace=job.trace,
        activations=not (job.train.compile and talks),
        apart=bool(job.train.compile),
        waiting=waiting,
        say=say,
    )


def _write_note(path: Path, sentence: str) -> None:
    """Append a sentence for a person to metrics.jsonl."""
    _append(path, {NOTE: sentence})


def _write_line(path: Path, progress: Progress) -> None:
    """Append a line to metrics.jsonl; what was not measured is left out."""
    line = asdict(progress)
    account, measured = line.pop("ledger"), line.pop("measured")
    line = {name: value for name, value in (line | measured).items() if value is not None}
    if account is not None:
        line["ledger"] = account._asdict()
    del line["ends_epoch"], line["seconds"]
    _append(path, line)


def _append(path: Path, line: dict[str, object]) -> None:
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
    }


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
