"""The parent flow: one `dvc repro`, its flow stages as subflows, its plain stages as log lines.

`python -m pipelines.repro` is started by `imagemill run`; `repro` is what a deployment runs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Failed

from imagemill import records
from imagemill.errors import UserError
from imagemill.params import read_params
from pipelines import environment, processes, server
from pipelines.lock import run_lock
from pipelines.prefect_tracker import PrefectTracker, close_abandoned, close_children, run_tracked
from pipelines.prepare import prepare
from pipelines.stage import FLOWS, PLAIN
from pipelines.terminal import LOGGED, complain, say
from pipelines.tracker import Tracker

FAILURE = records.STATE / "failure.json"
_DVC = (sys.executable, "-m", "dvc", "repro")
_FIXED_STAGES = len(PLAIN) + len(FLOWS) - 1  # beside one `compress` instance a variant
# A training needs up to ten to write a checkpoint.
_GRACE_SECONDS = 20.0


class StageError(UserError):
    """A stage stopped with something to tell the user."""


@flow(name="repro", persist_result=False, retries=0, validate_parameters=False)
def repro() -> State[Any] | None:
    """Notice a changed source, then bring every output up to date."""
    root = Path.cwd()
    # Under a worker Prefect's own console shows what is logged; ours would be the second time.
    is_quiet = environment.CONSOLE_LEVEL in os.environ
    tracker = PrefectTracker(say if is_quiet else _say_nothing)
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        with run_lock(root):
            prepare(root, tracker.log)
            reproduce(root, tracker)
    except UserError as error:
        return Failed(message=str(error))
    return None


def _say_nothing(_line: str) -> None:
    pass


def reproduce(root: Path, tracker: Tracker) -> None:
    """Run `dvc repro` as a part of the current flow run.

    Raises:
        StageError: a stage told the user something.
    """
    run_id = flow_run.get_id()
    assert run_id is not None, "reproduce runs inside a flow run"
    if _is_own_server(root):
        close_abandoned("repro", besides=run_id)
    try:
        has_registered = _run_dvc(root, _DVC, run_id, tracker)
        if not has_registered:
            _fill_lost_registry(root, run_id, tracker)
    finally:
        close_children(run_id)


def _run_dvc(root: Path, command: tuple[str, ...], run_id: str, tracker: Tracker) -> bool:
    """Run DVC and pass its lines on; returns whether the register stage ran."""
    (root / FAILURE).unlink(missing_ok=True)
    dvc = processes.start(
        command,
        environment=os.environ
        | {
            environment.PARENT_FLOW_RUN: run_id,
            environment.FAILURE_FILE: str(root / FAILURE),
        },
        root=root,
        stdout=subprocess.PIPE,
    )
    try:
        has_registered = _forward(root, dvc, tracker)
        status = dvc.wait()
    finally:
        processes.end_group(dvc, grace_seconds=_GRACE_SECONDS)
    if status:
        raise _failure(root, status)
    return has_registered


def _forward(root: Path, dvc: subprocess.Popen[bytes], tracker: Tracker) -> bool:
    total = _FIXED_STAGES + len(read_params(root).compress.variants)
    seen = 0
    has_registered = False
    assert dvc.stdout is not None
    for raw in dvc.stdout:
        line = raw.decode(errors="replace").rstrip("\n")
        if not line or line.startswith(LOGGED):
            say(line.removeprefix(LOGGED))
            continue
        tracker.log(line)
        has_registered |= line.startswith("Running stage 'register'")
        if line.startswith(("Running stage '", "Stage '")):
            seen += 1
            tracker.progress(seen / total, "stages of dvc.yaml")
    return has_registered


def _fill_lost_registry(root: Path, run_id: str, tracker: Tracker) -> None:
    """All outputs are current: whatever is missing in the registry was lost, not new."""
    from imagemill.tracking import is_missing_versions

    if is_missing_versions(root, read_params(root)):
        tracker.log("the registry was lost: it is filled again from models/ and reports/")
        _run_dvc(root, (*_DVC, "--force", "--single-item", "register"), run_id, tracker)
        _run_dvc(root, _DVC, run_id, tracker)


def _failure(root: Path, status: int) -> Exception:
    try:
        told = json.loads((root / FAILURE).read_text(encoding="utf-8"))
    except OSError:
        return subprocess.CalledProcessError(status, "dvc repro")
    return StageError(f"{told['stage']}: {told['message']}")


def _is_own_server(root: Path) -> bool:
    noted = server.read_note(root)
    return noted is not None and noted.api_url == os.environ.get("PREFECT_API_URL")


def main() -> int:
    """The child of `imagemill run`: waits for a word on standard input, then runs the flow."""
    if not os.read(0, 64):
        return 1
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    processes.raise_when_stopped()
    root = Path.cwd()
    try:
        run_tracked("repro", "repro", partial(reproduce, root), parent=None, say=say)
    except UserError as error:
        complain(f"{error}")
        return 2
    except subprocess.CalledProcessError as error:
        complain(f"dvc repro failed with exit status {error.returncode}; see above")
        return 1
    except processes.Stopped as stopped:
        return stopped.exit_status
    return 0


def _stop_without_parent() -> None:
    """Standard input ends when `imagemill run` is gone, however it went."""
    # The bare descriptor: a thread inside `sys.stdin` would block the end of the interpreter.
    while os.read(0, 64):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    raise SystemExit(main())
