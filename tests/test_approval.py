"""A promotion that waits for a person, on a real Prefect server and without a browser."""

import os
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from finished_project import REPOSITORY
from registered_project import Registered
from toy_project import OUTPUT, ask, flow_runs, running, wait_for

from imagemill import tracking

BETTER: dict[str, Any] = {"val_top1": 0.998, "val_top1_ci95": [0.996, 1.0]}


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> Registered:
    """A registry in which version 2 may become champion; nobody waits longer than a minute."""
    project = Registered(tmp_path, empty_store)
    project.measure("pruned", **BETTER)
    return project


def promoting(root: Path, api_url: str) -> "AbstractContextManager[subprocess.Popen[str]]":
    """The command, with our pipelines although the project has none of its own."""
    paths = f"{REPOSITORY}:{os.environ.get('PYTHONPATH', '')}"
    words = "pipelines.promote", "pruned", "--by", "ann"
    return running(root, *words, PREFECT_API_URL=api_url, PYTHONPATH=paths)


def waiting_run(process: "subprocess.Popen[str]", root: Path, api_url: str) -> Any:
    """The flow run that has paused, at the address that was said; others may wait there too."""

    def paused() -> Any:
        said = (root / OUTPUT).read_text()
        assert process.poll() is None, said
        runs = [run for run in flow_runs(api_url, "promote") if f"flow-run/{run['id']}" in said]
        return next((run for run in runs if run["state_type"] == "PAUSED"), None)

    return wait_for(paused, "the pause")


def promotion(project: Registered, api_url: str, answer: dict[str, Any] | None) -> tuple[int, str]:
    """Promote version 2, answer as the page would; returns exit status and output."""
    with promoting(project.root, api_url) as process:
        if answer is not None:
            run = waiting_run(process, project.root, api_url)
            assert project.aliases()["champion"] == 4
            ask(api_url, f"flow_runs/{run['id']}/resume", {"run_input": answer})
        status = process.wait(60)
    return status, (project.root / OUTPUT).read_text()


def set_policy(project: Registered, **changes: str) -> None:
    path = project.root / "params.yaml"
    text = path.read_text()
    for old, new in changes.items():
        assert f"{old}: " in text
        before, _, rest = text.partition(f"  {old}: ")
        text = f"{before}  {old}: {new}\n{rest.partition(chr(10))[2]}"
    path.write_text(text)


def test_who_agrees_is_written_down(project: Registered, prefect_server: str) -> None:
    """The champion moves after the form is sent, and the history names both."""
    status, said = promotion(project, prefect_server, {"agree": True, "name": "bob"})
    assert status == 0, said
    assert project.aliases()["champion"] == 2
    assert "by ann, agreed by bob" in said


def test_who_disagrees_stops_it(project: Registered, prefect_server: str) -> None:
    """Status 2, the old aliases, and who said no."""
    before = project.aliases()
    status, said = promotion(project, prefect_server, {"agree": False, "name": "bob"})
    assert (status, project.aliases()) == (2, before)
    assert "bob did not agree; the old aliases stay" in said


def test_silence_refuses(project: Registered, prefect_server: str) -> None:
    """When the time is over nothing has moved."""
    set_policy(project, wait_seconds="2")
    before, start = project.aliases(), time.monotonic()
    status, said = promotion(project, prefect_server, None)
    assert (status, project.aliases()) == (2, before)
    assert "nobody agreed within 2 s" in said
    assert time.monotonic() - start < 60


def test_a_killed_wait_moves_nothing(project: Registered, prefect_server: str) -> None:
    """Killed while it waits: the old aliases, and the next promotion is free to go on."""
    before = project.aliases()
    with promoting(project.root, prefect_server) as process:
        waiting_run(process, project.root, prefect_server)
        process.kill()
        process.wait()
    assert project.aliases() == before
    decision, _ = tracking.promote(project.root, project.params, "pruned", by="ann", at="now")
    assert decision.promoted
