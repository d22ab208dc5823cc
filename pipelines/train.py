"""The flow `train`: processes of torch.distributed.run, followed while they work."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from imagemill.errors import ToBeResumedError
from imagemill.params import BASE, Params
from imagemill.records import MODELS, ModelCard
from imagemill.tracking import Curves, open_curves
from imagemill.tracking.curves import CURVES
from imagemill.tracking.start import find_start
from imagemill.train.job import NOTE, Job, Line, prepare, prepare_pretraining, pretrained, publish
from imagemill.train.launch import train_processes
from imagemill.train.origin import Origin
from pipelines.tracker import Tracker

_LOG_SECONDS = 5.0


def train(root: Path, params: Params, tracker: Tracker) -> None:
    """Train the base model and publish it as models/base; a killed training is gone on with."""
    origin = tracker.step(find_start, root, params)
    if params.train.pretrain is not None:
        origin = _pretrain(root, params, origin, tracker)
    job = tracker.step(prepare, root, params, origin)
    tracker.log(
        f"training {params.train.model}, {params.train.processes} process(es), started from "
        f"{job.start}"
    )
    curves = _follow(root, params, job, f"train {params.train.model}", tracker)
    with _ending(curves):
        metrics = tracker.step(publish, job)
    curves.close("FINISHED", sha256=ModelCard.read(root / MODELS / BASE / "model.json").sha256)
    tracker.log(
        f"trained: val top-1 {metrics['val_top1']:.2%} after "
        f"{metrics['training_cpu_seconds']:.1f} CPU seconds ({metrics['machine']}); "
        f"ledger: {_told(metrics['ledger'])}"
    )


def _pretrain(root: Path, params: Params, origin: Origin, tracker: Tracker) -> Origin:
    """Learn from images without labels, unless that was done before."""
    job = tracker.step(prepare_pretraining, root, params, origin)
    found = pretrained(job)
    if found is None:
        tracker.log(f"pre-training {params.train.model}, started from {job.start}")
        _follow(root, params, job, f"pre-train {params.train.model}", tracker).close("FINISHED")
        found = pretrained(job)
        assert found is not None, "a pre-training that ended well leaves its weights"
    return found


def _follow(root: Path, params: Params, job: Job, name: str, tracker: Tracker) -> Curves:
    """Run a job's processes to their end; returns its curves, still open."""
    tags = {"training": job.folder.name, "data_digest": job.data.digest}
    curves = open_curves(root, params.register_, name, tags, job.start)
    with _ending(curves), _Follower(tracker, curves) as follower:
        tracker.step(train_processes, job, follower.follow, tracker.log)
    return curves


@contextmanager
def _ending(curves: Curves) -> Iterator[None]:
    """What goes wrong inside the block ends the run of the curves."""
    try:
        yield
    except BaseException as error:
        is_failure = isinstance(error, Exception) and not isinstance(error, ToBeResumedError)
        curves.close("FAILED" if is_failure else "KILLED")
        raise


def _told(ledger: list[dict[str, Any]]) -> str:
    """What the accounts of all epochs say; any that was not whole has stopped the run."""
    if not ledger:
        return "none was kept"
    return (
        f"{len(ledger)} epoch(s) of {ledger[-1]['consumed']:,} images, each once, "
        f"digest {ledger[-1]['digest'][:16]}"
    )


class _Follower:
    """Hands each line of training to the terminal, the flow's log and MLflow."""

    def __init__(self, tracker: Tracker, curves: Curves) -> None:
        self._tracker, self._curves = tracker, curves
        self._told_at = time.monotonic()
        self._bar: tqdm[None] = tqdm(
            unit="step", leave=False, disable=not sys.stderr.isatty(), dynamic_ncols=True
        )

    def __enter__(self) -> "_Follower":
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def follow(self, line: Line) -> None:
        """One line of metrics.jsonl."""
        if NOTE in line:
            self._tracker.log(line[NOTE])
            return
        self._bar.total = line["total_steps"]
        self._bar.set_postfix_str(f"{line['images_per_second']:,.0f} images/s", refresh=False)
        self._bar.update(line["step"] - self._bar.n)
        self._curves.log(line["step"], {name: line[name] for name in CURVES if name in line})
        self._tracker.progress(line["step"] / line["total_steps"], "training")
        now = time.monotonic()
        if now - self._told_at >= _LOG_SECONDS or line["step"] == line["total_steps"]:
            self._tracker.log(_sentence(line))
            self._told_at = now


def _sentence(line: Line) -> str:
    val = f", val top-1 {line['val_top1']:.2%}" if "val_top1" in line else ""
    stale = f", staleness {line['staleness_mean']:.1f}" if "staleness_mean" in line else ""
    return (
        f"step {line['step']}/{line['total_steps']}: loss {line['loss']:.3f}, "
        f"accuracy {line['accuracy']:.2%}{val}{stale}, {line['images_per_second']:,.0f} images/s, "
        f"{line['wait_share']:.0%} waiting for them, {line['seconds_left']:.0f} s left"
    )
