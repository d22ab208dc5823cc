"""The flow of `register`: models and reports into the MLflow registry."""

import os
from pathlib import Path
from typing import Any

from imagemill import tracking
from imagemill.params import Params
from imagemill.records import REPORTS, Evaluation, Registration
from imagemill.tracking.address import is_server
from pipelines.environment import PARENT_FLOW_RUN
from pipelines.tracker import Tracker

# Where `mlflow server` answers if nobody says otherwise.
USUAL_PAGE = "http://127.0.0.1:5000"


def register(root: Path, params: Params, tracker: Tracker) -> None:
    """Register what is new, and show the versions and where to compare them."""
    registration = tracker.step(
        tracking.register,
        root,
        params,
        log=tracker.log,
        flow_run=os.environ.get(PARENT_FLOW_RUN),
    )
    tracker.table("registered-versions", _rows(root, registration))
    address = params.register_.tracking_uri
    page = address if is_server(address) else USUAL_PAGE
    link = tracking.compare_link(page, registration)
    tracker.link("mlflow-comparison", link, "Compare these versions in MLflow (`make ui`)")


def _rows(root: Path, registration: Registration) -> list[dict[str, Any]]:
    rows = []
    for entry in registration.versions:
        evaluation = Evaluation.read(root / REPORTS / "evaluate" / f"{entry.variant}.json")
        rows.append(
            {
                "variant": entry.variant,
                "version": entry.version,
                "aliases": ", ".join(entry.aliases),
                "verdict": evaluation.verdict,
                "test top-1": f"{evaluation.top1:.4f}",
                "size, bytes": evaluation.size_bytes,
                "latency p50, ms": f"{evaluation.latency_ms_p50:.3f}",
                "run": entry.run_id,
            }
        )
    return rows
