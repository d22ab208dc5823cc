"""`imagemill sweep`: the flow `sweep`, a study whose trials are trainings.

Its trials are tasks of one flow run. A server that is up is used; otherwise one is started for as
long as the sweep takes.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from imagemill.errors import UserError
from imagemill.params import Params, read_params
from imagemill.records import SHARD_MANIFEST, ShardManifest
from imagemill.sweep.result import RESULT, best_of, command, write_result
from imagemill.sweep.space import settings_of, study_name
from imagemill.sweep.study import Outcome, Study
from imagemill.sweep.trial import run_trial
from imagemill.tracking import SweepRuns, open_sweep
from imagemill.tracking.curves import CURVES
from imagemill.train.job import Line
from pipelines import environment, processes, server
from pipelines.lock import run_lock
from pipelines.terminal import complain, say
from pipelines.tracker import Tracker

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0


def sweep(root: Path, params: Params, tracker: Tracker) -> None:
    """Make the trials that are still to be made, and tell what was found."""
    settings = settings_of(params)
    name = study_name(params, ShardManifest.read(root / SHARD_MANIFEST).digest)
    study = Study(root, name, settings)
    done = settings.trials - study.remaining
    tracker.log(f"study {name}: {settings.trials} trials{f', {done} made before' if done else ''}")
    runs = open_sweep(root, params.register_, name)
    try:
        while study.remaining:
            _trial(root, params, study, runs, tracker)
            tracker.progress(1 - study.remaining / settings.trials, "trials")
    except BaseException as error:
        runs.close("FAILED" if isinstance(error, Exception) else "KILLED", best=None)
        raise
    _tell(root, study, runs, tracker)


def _trial(root: Path, params: Params, study: Study, runs: SweepRuns, tracker: Tracker) -> None:
    draw = study.draw()
    curves = runs.begin(draw.number, draw.values)

    def follow(line: Line) -> None:
        if "step" in line:
            curves.log(line["step"], {key: line[key] for key in CURVES if key in line})

    try:
        outcome: Outcome = tracker.step(
            run_trial, root, params, study.name, draw, follow, log=tracker.log
        )
    except BaseException:
        curves.close("KILLED")
        raise
    study.tell(draw, outcome)
    runs.end(curves, outcome.state, outcome.val_top1)
    tracker.log(_sentence(outcome))


def _tell(root: Path, study: Study, runs: SweepRuns, tracker: Tracker) -> None:
    outcomes = study.outcomes()
    write_result(root, study.name, outcomes)
    best = best_of(outcomes)
    tracker.table("trials", [_row(outcome) for outcome in outcomes])
    if best is None or best.val_top1 is None:
        runs.close("FINISHED", best=None)
        tracker.log(f"no trial was trained to its end; {RESULT} lists them")
        return
    runs.close("FINISHED", best=(best.number, best.val_top1))
    tracker.log(f"the best: {_sentence(best)}; all are in {RESULT}")
    tracker.log(f"to train with it: {command(best.values)}")


def _row(outcome: Outcome) -> dict[str, Any]:
    told = {"trial": outcome.number, "state": outcome.state, "epochs": outcome.epochs}
    return told | {"val top-1": outcome.val_top1} | outcome.values


def _sentence(outcome: Outcome) -> str:
    top1 = "" if outcome.val_top1 is None else f", val top-1 {outcome.val_top1:.2%}"
    values = ", ".join(f"{key} {value}" for key, value in outcome.values.items())
    reason = f" ({outcome.reason})" if outcome.reason else ""
    return (
        f"trial {outcome.number} {outcome.state} after {outcome.epochs} epoch(s){top1}: "
        f"{values}{reason}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Sweep in the current folder; 0 done, 2 the user's mistake, 128 + signal when stopped."""
    chosen = _parse(arguments)
    root = Path.cwd()
    processes.adopt_orphans()
    processes.raise_when_stopped()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        params = read_params(root)
        settings_of(params)
        with run_lock(root):
            _run(root, params, chosen.port)
    except UserError as error:
        complain(f"{error}")
        return 2
    except processes.Stopped as stopped:
        complain("stopped; the next `imagemill sweep` goes on with this study")
        return stopped.exit_status
    return 0


def _run(root: Path, params: Params, port: int | None) -> None:
    lease: server.Lease | None = None
    try:
        lease = server.Lease.open(root, os.environ, port=port)
        while not lease.is_ready():
            time.sleep(_POLL_SECONDS)
        say(f"Prefect shows this sweep at {lease.page_url}")
        os.environ["PREFECT_API_URL"] = lease.api_url
        from pipelines.prefect_tracker import run_tracked

        run_tracked("sweep", "sweep", partial(sweep, root, params), parent=None, say=say)
    finally:
        if lease is not None:
            lease.close()
        processes.end_descendants(grace_seconds=_GRACE_SECONDS)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="imagemill sweep", description=__doc__)
    parser.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
