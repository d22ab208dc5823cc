"""What the wiring costs: `python -m benchmarks.orchestration`, or `make bench`.

A copy of the checkout runs the digits from nothing; then the same project is asked again with
nothing to do. The cost of a flow stage is measured on a flow whose work is empty: its wall time
with a Prefect server up, less the time a process takes that only does the imports.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.results import Row, write_results
from pipelines import processes
from pipelines.environment import PREFECT_HOME, quiet_environment
from pipelines.server import Lease

REPOSITORY = Path(__file__).resolve().parent.parent
COPIED = ("src", "pipelines", "recipes", "labels", ".dvc", "dvc.yaml", "params.yaml")
DOTFILES = (".gitignore", ".dvcignore", "prefect.yaml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.egg-info", "tmp", "cache")
ROUNDS = 5

HELP_LIMIT_SECONDS = 0.5
NO_OP_LIMIT_SECONDS = 2.0
STAGE_LIMIT_SECONDS = 3.0
RUN_LIMIT_SECONDS = 150.0

EMPTY_FLOW = "def explain(root, params, tracker):\n    pass\n"
IMPORTS = "import pipelines.stage, pipelines.prefect_tracker, pipelines.explain"


def main() -> None:
    """Measure everything and write benchmarks/results/orchestration.json."""
    processes.adopt_orphans()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _copy_project(root)
        rows = [
            _row("imagemill --help", _median(root, ["imagemill", "--help"]), HELP_LIMIT_SECONDS),
            _row(
                "imagemill run, digits, from nothing",
                _once(root, "imagemill", "run"),
                RUN_LIMIT_SECONDS,
            ),
            Row("imagemill run, nothing to do", _once(root, "imagemill", "run"), "s"),
            _row("dvc repro, nothing to do", _median(root, ["dvc", "repro"]), NO_OP_LIMIT_SECONDS),
            *_server_rows(root),
        ]
    write_results("orchestration", rows)


def _server_rows(root: Path) -> list[Row]:
    """Starting a server, and what a flow stage costs while it is up."""
    shutil.rmtree(root / PREFECT_HOME)
    first = _time_server(root)
    later = _time_server(root)
    (root / "pipelines/explain.py").write_text(EMPTY_FLOW)
    lease = _open_server(root)
    try:
        tracked = _median(root, ["pipelines.stage", "explain"])
        imports = _median_of(lambda: _timed(root, [sys.executable, "-c", IMPORTS]))
    finally:
        lease.close()
    untracked = _median(root, ["pipelines.stage", "explain"])
    return [
        Row("Prefect server, first start (makes its database)", first, "s"),
        Row("Prefect server, later start", later, "s"),
        Row("empty flow stage, no server", untracked, "s"),
        Row("empty flow stage, server up: its imports alone", imports, "s"),
        _row(
            "empty flow stage, server up: over its imports", tracked - imports, STAGE_LIMIT_SECONDS
        ),
    ]


def _row(case: str, seconds: float, limit: float) -> Row:
    return Row(case, round(seconds, 3), "s").against("limit", limit)


def _time_server(root: Path) -> float:
    start = time.monotonic()
    lease = _open_server(root)
    seconds = time.monotonic() - start
    lease.close()
    return seconds


def _open_server(root: Path) -> Lease:
    lease = Lease.open(root, _environment(root), port=None)
    while not lease.is_ready():
        time.sleep(0.05)
    return lease


def _median(root: Path, words: Sequence[str]) -> float:
    return _median_of(lambda: _once(root, *words))


def _median_of(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(ROUNDS))


def _once(root: Path, *words: str) -> float:
    return _timed(root, [sys.executable, "-m", *words])


def _timed(root: Path, command: Sequence[str]) -> float:
    start = time.monotonic()
    subprocess.run(command, cwd=root, env=_environment(root), check=True, capture_output=True)
    return time.monotonic() - start


def _environment(root: Path) -> dict[str, str]:
    return quiet_environment(
        {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}, root
    )


def _copy_project(root: Path) -> None:
    for name in (*COPIED, *DOTFILES):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=LEFT_OUT)
        else:
            shutil.copy(source, root / name)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)


if __name__ == "__main__":
    main()
