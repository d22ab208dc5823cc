"""One trial: a training by the same code as the stage's, in a folder of its own."""

import shutil
from collections.abc import Callable
from pathlib import Path

from imagemill.errors import TrainingError
from imagemill.params import Params
from imagemill.records import STATE
from imagemill.sweep.space import with_values
from imagemill.sweep.study import COMPLETE, FAILED, PRUNED, Draw, Outcome
from imagemill.train.job import Line, prepare
from imagemill.train.launch import train_processes

FOLDER = STATE / "sweep"


class _HopelessError(Exception):
    """Leaves a training whose trial is pruned; its processes end with it."""


def run_trial(
    root: Path,
    params: Params,
    study: str,
    draw: Draw,
    on_line: Callable[[Line], None],
    *,
    log: Callable[[str], None],
) -> Outcome:
    """Train with the drawn values until the end, or until the pruner says stop.

    Args:
        root: The project's root.
        params: All of params.yaml.
        study: Name of the study; its trials work below `.imagemill/sweep/<study>`.
        draw: The trial. The same values have the same folder: one that was cut off is gone on with.
        on_line: Called with each line of metrics.jsonl.
        log: Called with what there is to say of lost processes.

    Raises:
        UserError: anything but a failed training, which is an outcome.
    """
    job = prepare(root, with_values(params, draw.values), below=FOLDER / study, keeps_model=False)
    last: list[tuple[float, int]] = []
    pruned = False

    def follow(line: Line) -> None:
        nonlocal pruned
        on_line(line)
        if "val_top1" in line:
            last.append((line["val_top1"], line["epoch"]))
            if not draw.report(*last[-1]) and line["step"] < line["total_steps"]:
                pruned = True
                raise _HopelessError

    def log_unless_pruned(sentence: str) -> None:
        if not pruned:  # its processes were asked to end, and nobody will go on with them
            log(sentence)

    state, reason = COMPLETE, None
    try:
        train_processes(job, follow, log_unless_pruned)
    except _HopelessError:
        state = PRUNED
    except TrainingError as error:
        state, reason = FAILED, str(error)
    shutil.rmtree(job.folder)
    top1, epochs = last[-1] if last else (None, 0)
    return Outcome(draw.number, state, top1, epochs, draw.values, reason)
