"""Training curves in MLflow while the training runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imagemill.params import RegisterParams
from imagemill.records import Start
from imagemill.tracking.entries import Point, RunStatus

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

TRAINING = "training"
CURVE_PREFIX = "train/"
# Of a line of metrics.jsonl, what is worth a curve.
CURVES = (
    *("loss", "accuracy", "learning_rate", "images_per_second", "wait_share"),
    *("epoch_loss", "epoch_accuracy", "val_top1", "staleness_mean", "staleness_max"),
    *("gradient_norm", "activation_norm", "peak_memory_bytes", "energy_joules"),
)
SEND_SECONDS = 3.0


class Curves:
    """One MLflow run that grows with a training. Points are collected and sent together."""

    def __init__(self, store: "Store", run_id: str) -> None:
        self._store = store
        self.run_id = run_id
        self._waiting: list[Point] = []
        self._sent_at = time.monotonic()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the values of one step; they are sent every few seconds.

        Args:
            step: Optimiser step.
            values: Name -> value; the names appear under `train/`.

        Raises:
            ServiceError: the store does not take them.
        """
        self._waiting += curve_points(step, values)
        if time.monotonic() - self._sent_at >= SEND_SECONDS:
            self._send()

    def close(self, status: RunStatus, *, sha256: str | None = None) -> None:
        """Send what is left and end the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            sha256: Of the model this training made (`model.json`); `register` finds the run by it.

        Raises:
            ServiceError: the store does not take it.
        """
        self._send()
        if sha256 is not None:
            self._store.log(self.run_id, tags={"sha256": sha256})
        self._store.end_run(self.run_id, status)

    def _send(self) -> None:
        if self._waiting:
            self._store.log(self.run_id, points=self._waiting)
        self._waiting = []
        self._sent_at = time.monotonic()


def open_curves(
    root: Path,
    settings: RegisterParams,
    run_name: str,
    tags: Mapping[str, str],
    start: Start | None = None,
) -> Curves:
    """Begin the MLflow run of a training.

    The run carries `tags` and `kind = training`. `register` later finds it by the sha256 given to
    `Curves.close` and puts it under the parent run of that content. A run with the same tags that
    never ended belongs to a training that was killed, and is closed as such.

    Args:
        root: The project's root.
        settings: The section `register`.
        run_name: What the run is called.
        tags: What tells this training from others, such as `data_digest`.
        start: What the training starts from: tags and parameters `started_from...` say it.

    Raises:
        ServiceError: the store cannot be used.
    """
    from imagemill.tracking.store import Store

    store = Store(root, settings)
    marks = {**tags, "kind": TRAINING}
    for killed in store.find_runs(marks, status="RUNNING"):
        store.end_run(killed, "KILLED")
    run_id = store.start_run(run_name, marks, parent=None)
    if start is not None:
        told = start_marks(start)
        store.log(run_id, params=told, tags=told)
    return Curves(store, run_id)


def start_marks(start: Start) -> dict[str, str]:
    """What a training starts from, as tags and parameters."""
    marks = {
        "started_from": start.name,
        "started_from_kind": start.kind,
        "started_from_version": start.version,
        "started_from_sha256": start.sha256,
    }
    return {name: str(value) for name, value in marks.items() if value is not None}


def curve_points(step: int, values: Mapping[str, float]) -> list[Point]:
    """One line of metrics.jsonl as points of a curve."""
    return [Point(f"{CURVE_PREFIX}{name}", float(value), step) for name, value in values.items()]
