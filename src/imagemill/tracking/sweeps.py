"""A sweep in MLflow: a run for the study, and one below it for each trial."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imagemill.params import RegisterParams
from imagemill.tracking.curves import Curves
from imagemill.tracking.entries import Point, RunStatus

if TYPE_CHECKING:
    from imagemill.tracking.store import Store

SWEEP, TRIAL = "sweep", "trial"
# MLflow has no word of its own for a trial that was ended early; this is Optuna's choice.
_STATUS: Mapping[str, RunStatus] = {"complete": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}


class SweepRuns:
    """The runs of a study."""

    def __init__(self, store: "Store", run_id: str) -> None:
        self._store = store
        self.run_id = run_id

    def begin(self, number: int, values: Mapping[str, Any]) -> Curves:
        """Begin the run of a trial.

        Args:
            number: Of the trial.
            values: What was drawn, by dotted key.

        Raises:
            ServiceError: the store does not take it.
        """
        marks = {"kind": TRIAL, "trial": str(number)}
        run_id = self._store.start_run(f"trial {number}", marks, parent=self.run_id)
        told = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in values.items()
        }
        self._store.log(run_id, params=told)
        return Curves(self._store, run_id)

    def end(self, curves: Curves, state: str, val_top1: float | None) -> None:
        """End the run of a trial: complete, pruned or failed, with its last top-1 on val."""
        points = [] if val_top1 is None else [Point("val_top1", val_top1, 0)]
        self._store.log(curves.run_id, points=points, tags={"state": state})
        curves.close(_STATUS[state])

    def close(self, status: RunStatus, *, best: tuple[int, float] | None) -> None:
        """End the run of the study, with the number and top-1 of the best trial."""
        if best is not None:
            number, top1 = best
            points = [Point("best_val_top1", top1, 0)]
            self._store.log(self.run_id, points=points, tags={"best_trial": str(number)})
        self._store.end_run(self.run_id, status)


def open_sweep(root: Path, settings: RegisterParams, study: str) -> SweepRuns:
    """The run of a study; one that was stopped goes on in its own.

    Args:
        root: The project's root.
        settings: The section `register`.
        study: Name of the study.

    Raises:
        ServiceError: the store cannot be used.
    """
    from imagemill.tracking.store import Store

    store = Store(root, settings)
    marks = {"kind": SWEEP, "study": study}
    found = store.find_runs(marks)
    if not found:
        return SweepRuns(store, store.start_run(f"sweep {study}", marks, parent=None))
    for cut_off in store.find_runs(
        {"kind": TRIAL, "mlflow.parentRunId": found[0]}, status="RUNNING"
    ):
        store.end_run(cut_off, "KILLED")
    return SweepRuns(store, found[0])


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
