"""A project whose stages take no time: our real wiring around flows of a few lines.

`behaviour.txt` in its root tells the toy `train` what to do: fine, mistake, bug or sleep.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import psutil
from finished_project import make_project, write_all_reports

from pipelines.environment import PREFECT_HOME, quiet_environment

REPOSITORY = Path(__file__).resolve().parent.parent
DEADLINE_SECONDS = 90.0
OUTPUT = "output.txt"

T = TypeVar("T")

_TRAIN = """
import subprocess, sys, time
from imagemill.errors import TrainingError

def count(to):
    return list(range(to))

def train(root, params, tracker):
    tracker.log("toy training begins")
    tracker.log(f"prefect is imported: {'prefect' in sys.modules}")
    tracker.step(count, to=3)
    tracker.progress(1.0, "toy training")
    tracker.table("toy-table", [{"epoch": 1, "loss": 0.5}])
    tracker.link("toy-link", "http://127.0.0.1/", "somewhere")
    behaviour = (root / "behaviour.txt").read_text().strip()
    if behaviour == "mistake":
        raise TrainingError("the toy loss is not finite")
    if behaviour == "bug":
        raise ZeroDivisionError("a toy bug")
    if behaviour == "sleep":
        subprocess.run(["sleep", "600"], start_new_session=True)
    (root / "models/toy").mkdir(parents=True)
    (root / "models/toy/weights").write_text("0")
"""

_STAGES = """
stages:
  split:
    cmd: echo a plain line of split && mkdir -p data/split && echo 0 > data/split/keys
    deps: [data/source.json]
    outs: [data/split]
  train:
    cmd: python -m pipelines.stage train
    deps: [data/split, behaviour.txt]
    outs: [models/toy]
"""


def make_toy(root: Path) -> None:
    """Fill `root`; the reports of a finished run are there already."""
    write_all_reports(root, make_project(root))
    folders = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "pipelines", root / "pipelines", ignore=folders)
    for name in (".gitignore", ".dvcignore", "prefect.yaml"):
        shutil.copy(REPOSITORY / name, root / name)
    (root / ".dvc").mkdir()
    shutil.copy(REPOSITORY / ".dvc/config", root / ".dvc/config")
    (root / "pipelines/train.py").write_text(_TRAIN)
    (root / "dvc.yaml").write_text(_STAGES)
    (root / "behaviour.txt").write_text("fine")
    make_store(root)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)


def make_store(root: Path) -> None:
    """A registry file that is there: making a real one takes seconds and is not the point."""
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        database.execute(
            "CREATE TABLE model_versions (version, storage_location, name, current_stage)"
        )
        database.executemany(
            "INSERT INTO model_versions VALUES (?, 's3://elsewhere/x', 'imagemill-digits', 'None')",
            [(number,) for number in range(1, 5)],
        )
        database.commit()


def environment(root: Path, **more: str) -> dict[str, str]:
    """The environment of our commands; without a server unless `more` names one."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT")
    }
    return quiet_environment(inherited, root) | more


def call(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...` in the project's root."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=environment(root, **more),
        capture_output=True,
        text=True,
        check=False,
    )


def copy_database(source: Path, root: Path) -> None:
    """Give the project a Prefect database with its schema, so that a server starts sooner."""
    home = root / PREFECT_HOME
    home.mkdir(parents=True)
    with (
        closing(sqlite3.connect(source)) as old,
        closing(sqlite3.connect(home / "prefect.db")) as new,
    ):
        old.backup(new)


@contextmanager
def running(
    root: Path, *arguments: str, output: str = OUTPUT, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, with its output in a file; killed at the end."""
    with (root / output).open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=root,
            env=environment(root, **more),
            stdout=stream,
            stderr=stream,
            text=True,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for survivor in processes_of(root):
            survivor.kill()
        process.kill()
        process.wait()


def interrupt(process: subprocess.Popen[str]) -> int:
    """What Ctrl-C in a terminal does; returns the exit status."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(DEADLINE_SECONDS)


def output_of(root: Path) -> str:
    """What a `running` command has said so far."""
    return (root / OUTPUT).read_text()


def wait_for(reached: Callable[[], T], what: str, *, seconds: float = DEADLINE_SECONDS) -> T:
    """Poll until something is there; returns it."""
    deadline = time.monotonic() + seconds
    while not (found := reached()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)
    return found


def processes_of(root: Path) -> list[psutil.Process]:
    """Living processes that work for the project: all of them have its root as PREFECT_HOME."""
    return [process for process in psutil.process_iter() if _works_for(process, root)]


def _works_for(process: psutil.Process, root: Path) -> bool:
    try:
        home = process.environ().get("PREFECT_HOME", "")
        return home.startswith(f"{root}/") and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def ask(api_url: str, path: str, question: dict[str, Any]) -> Any:
    """Ask a Prefect server; most answers are lists of records.

    Asks again while the server says 503, as Prefect's own client does: its SQLite was locked.
    """
    request = urllib.request.Request(
        f"{api_url}/{path}",
        data=json.dumps(question).encode(),
        headers={"Content-Type": "application/json"},
    )

    def answered() -> tuple[Any] | None:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return (json.load(answer),)
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return None

    (said,) = wait_for(answered, f"an answer to {path}")
    return said


def flow_runs(api_url: str, flow: str) -> list[dict[str, Any]]:
    """Runs of a flow that have begun, the newest first."""
    question = {
        "flows": {"name": {"any_": [flow]}},
        "flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}},
        "sort": "START_TIME_DESC",
        "limit": 20,
    }
    runs: list[dict[str, Any]] = ask(api_url, "flow_runs/filter", question)
    return runs


def log_lines(api_url: str, flow_run_id: str) -> list[str]:
    """What a flow run logged."""
    question = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "TIMESTAMP_ASC"}
    return [record["message"] for record in ask(api_url, "logs/filter", question)]
