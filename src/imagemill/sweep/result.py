"""What a sweep found: reports/sweep.json, and lines to apply it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from imagemill.records import REPORTS, write_json
from imagemill.sweep.study import COMPLETE, Outcome

RESULT = REPORTS / "sweep.json"


def best_of(outcomes: Sequence[Outcome]) -> Outcome | None:
    """The complete trial with the highest val top-1, the first of equals."""
    complete = [one for one in outcomes if one.state == COMPLETE and one.val_top1 is not None]
    return max(complete, key=lambda one: one.val_top1 or 0.0, default=None)


def write_result(root: Path, study: str, outcomes: Sequence[Outcome]) -> None:
    """Write reports/sweep.json."""
    best = best_of(outcomes)
    document = {
        "study": study,
        "best": asdict(best) if best else None,
        "apply": command(best.values) if best else None,
        "trials": [asdict(outcome) for outcome in outcomes],
    }
    write_json(root / RESULT, document)


def command(values: Mapping[str, Any]) -> str:
    """The DVC command that trains with these values and writes them to params.yaml."""
    settings = (shlex.quote(f"{key}={_as_yaml(value)}") for key, value in values.items())
    return "dvc exp run " + " ".join(f"-S {setting}" for setting in settings)


def _as_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
