"""Runs with a real Prefect server: flow runs, logs, artifacts, and what a stopped run leaves."""

import subprocess
from pathlib import Path

import psutil
import pytest
from toy_project import (
    ask,
    call,
    copy_database,
    flow_runs,
    interrupt,
    log_lines,
    make_toy,
    output_of,
    processes_of,
    running,
    wait_for,
)

from imagemill.params import read_params
from imagemill.tracking import is_missing_versions
from pipelines import server
from pipelines.environment import PREFECT_HOME

# Stages with a server ------------------------------------------------------------------------


Tracked = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def tracked(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Tracked:
    """A toy `imagemill run` on the session's server, and what it said."""
    root = tmp_path_factory.mktemp("tracked")
    make_toy(root)
    return root, call(root, "pipelines.run", PREFECT_API_URL=prefect_server)


def test_a_run_ends_with_the_table(tracked: Tracked) -> None:
    """Status 0, one line a variant, the champion marked, and how to open the pages."""
    _root, done = tracked
    assert done.returncode == 0, done.stderr
    champions = [line.split()[0] for line in done.stdout.splitlines() if "champion" in line]
    assert champions == ["int8"]
    assert "make ui" in done.stdout


def test_a_flow_stage_is_a_subflow_of_the_run(tracked: Tracked, prefect_server: str) -> None:
    """The stage's flow run hangs below a task run of the parent, as any subflow does."""
    parent, child = flow_runs(prefect_server, "repro")[0], flow_runs(prefect_server, "train")[0]
    holders = ask(
        prefect_server,
        "task_runs/filter",
        {"task_runs": {"id": {"any_": [child["parent_task_run_id"]]}}},
    )
    assert (holders[0]["flow_run_id"], holders[0]["state_type"]) == (parent["id"], "COMPLETED")
    assert (parent["state_type"], child["state_type"]) == ("COMPLETED", "COMPLETED")


def test_a_step_is_a_task(tracked: Tracked, prefect_server: str) -> None:
    """Each step of a flow is a task run of the stage's flow run, named after its function."""
    child = flow_runs(prefect_server, "train")[0]

    def tasks() -> list[str]:
        question = {"flow_runs": {"id": {"any_": [child["id"]]}}}
        found = ask(prefect_server, "task_runs/filter", question)
        return [run["name"].split("-")[0] for run in found]

    assert wait_for(tasks, "the task run") == ["count"]


def test_a_stages_lines_are_in_its_own_log(tracked: Tracked, prefect_server: str) -> None:
    """What a flow stage logs stands in its flow run, and not again in the parent's."""
    parent, child = flow_runs(prefect_server, "repro")[0], flow_runs(prefect_server, "train")[0]
    assert "toy training begins" in log_lines(prefect_server, child["id"])
    assert "toy training begins" not in log_lines(prefect_server, parent["id"])


def test_a_plain_stages_lines_are_in_the_parents_log(tracked: Tracked, prefect_server: str) -> None:
    """Plain stages have no flow run; what they say is logged by the run."""
    parent = flow_runs(prefect_server, "repro")[0]
    assert "a plain line of split" in log_lines(prefect_server, parent["id"])


@pytest.mark.parametrize("line", ["toy training begins", "a plain line of split"])
def test_the_terminal_shows_each_line_once(tracked: Tracked, line: str) -> None:
    """However many logs a line goes to, a person reads it once."""
    _root, done = tracked
    said = (done.stdout + done.stderr).splitlines()
    assert [entry for entry in said if entry.strip("\x1e") == line] == [line]


def test_artifacts_reach_the_server(tracked: Tracked, prefect_server: str) -> None:
    """Tables, links and progress of a stage are artifacts."""
    child = flow_runs(prefect_server, "train")[0]
    question = {"artifacts": {"flow_run_id": {"any_": [child["id"]]}}}
    found = {record["type"] for record in ask(prefect_server, "artifacts/filter", question)}
    assert found == {"table", "markdown", "progress"}


def test_a_mistake_fails_the_flow_runs_with_its_sentence(toy: Path, prefect_server: str) -> None:
    """Stage and run are Failed with the sentence and nothing else, and the run says it last."""
    (toy / "behaviour.txt").write_text("mistake")
    done = call(toy, "pipelines.run", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "train: the toy loss is not finite"
    states = [flow_runs(prefect_server, name)[0]["state"] for name in ("train", "repro")]
    assert [state["type"] for state in states] == ["FAILED", "FAILED"]
    assert [state["message"] for state in states] == [
        "the toy loss is not finite",
        "train: the toy loss is not finite",
    ]


def test_a_failed_flow_writes_no_pickle(toy: Path, prefect_server: str) -> None:
    """Prefect keeps the exception of a failed run as JSON."""
    (toy / "behaviour.txt").write_text("bug")
    call(toy, "pipelines.stage", "train", PREFECT_API_URL=prefect_server)
    kept = [path.read_bytes()[:1] for path in (toy / PREFECT_HOME / "storage").iterdir()]
    assert set(kept) == {b"{"}


# Whole runs with a server of their own -------------------------------------------------------


@pytest.fixture
def sleepy(toy: Path, prefect_database: Path) -> Path:
    """A toy whose training sleeps; its server starts in seconds."""
    (toy / "behaviour.txt").write_text("sleep")
    copy_database(prefect_database, toy)
    return toy


def test_ctrl_c_while_the_server_starts_leaves_nothing(sleepy: Path) -> None:
    """A run stopped in its first seconds ends the server, the check and the flow it started."""
    with running(sleepy, "pipelines.run") as run:
        wait_for(lambda: len(processes_of(sleepy)) == 4, "server, check and flow")
        assert interrupt(run) == 130
        assert processes_of(sleepy) == []


def test_ctrl_c_in_a_stage_leaves_nothing(sleepy: Path) -> None:
    """A run stopped in the middle ends everything below it."""
    with running(sleepy, "pipelines.run") as run:
        wait_for(lambda: "toy training begins" in output_of(sleepy), "the stage")
        wait_for(lambda: any(p.name() == "sleep" for p in processes_of(sleepy)), "its child")
        assert interrupt(run) == 130
        assert processes_of(sleepy) == []


def test_a_killed_server_ends_the_run_with_one_sentence(sleepy: Path) -> None:
    """The run notices at once, ends what it started and says what happened."""
    with running(sleepy, "pipelines.run") as run:
        wait_for(lambda: "toy training begins" in output_of(sleepy), "the stage")
        noted = server.read_note(sleepy)
        assert noted is not None
        psutil.Process(noted.pid).kill()
        assert run.wait(30) == 2
        assert output_of(sleepy).splitlines()[-1].startswith("the Prefect server ended by itself")
        assert processes_of(sleepy) == []


def test_an_abandoned_server_is_ended_by_the_next_run(sleepy: Path) -> None:
    """A run that was killed outright leaves its server; the next command ends it."""
    with running(sleepy, "pipelines.run") as run:
        wait_for(lambda: server.read_note(sleepy) is not None, "the note")
        noted = server.read_note(sleepy)
        assert noted is not None
        run.kill()
        run.wait()
        server.end_abandoned(sleepy)
        assert not server.is_alive(noted.pid, noted.started)
        assert server.read_note(sleepy) is None


def test_a_wrong_model_name_stops_a_run_before_any_stage(toy: Path, prefect_server: str) -> None:
    """The names in params.yaml are checked while the server starts."""
    text = (toy / "params.yaml").read_text().replace("model: fast_mnist", "model: fast_mnits")
    (toy / "params.yaml").write_text(text)
    done = call(toy, "pipelines.run", PREFECT_API_URL=prefect_server)
    assert done.returncode == 2
    assert "did you mean 'fast_mnist'?" in done.stderr
    assert not (toy / "dvc.lock").exists()


def test_a_lost_registry_is_noticed_after_the_run(toy: Path) -> None:
    """Versions that register.json names and the store lacks are missing."""
    assert not is_missing_versions(toy, read_params(toy))
    (toy / "mlflow.db").unlink()
    assert is_missing_versions(toy, read_params(toy))


def test_a_deployed_run_scans_and_reproduces(toy: Path, prefect_server: str) -> None:
    """What the schedule starts notices the source, takes the lock and runs `dvc repro`."""
    with running(toy, "pipelines.schedule", "--only-flow", PREFECT_API_URL=prefect_server):
        question = {"deployments": {"name": {"any_": ["nightly"]}}, "sort": "CREATED_DESC"}
        deployment = wait_for(
            lambda: ask(prefect_server, "deployments/filter", question), "the deployment"
        )[0]
        begun = ask(prefect_server, f"deployments/{deployment['id']}/create_flow_run", {})

        def ended() -> list[str]:
            found = flow_runs(prefect_server, "repro")
            return [
                run["state_type"]
                for run in found
                if run["id"] == begun["id"] and run["state_type"] in ("COMPLETED", "FAILED")
            ]

        assert wait_for(ended, "the end of the run") == ["COMPLETED"]
    assert (toy / "data/source.json").exists()
    assert (toy / "models/toy/weights").exists()


def test_the_pages_outlive_the_run_they_were_opened_in(sleepy: Path) -> None:
    """`up` shows a run's own server while it is there, and starts one in its place afterwards."""
    with running(sleepy, "pipelines.run") as run:
        first = wait_for(lambda: _answering(sleepy), "the server of the run")
        # An MLflow server of the user's: none is started here.
        params = (sleepy / "params.yaml").read_text()
        elsewhere = params.replace("sqlite:///mlflow.db", "http://127.0.0.1:9")
        (sleepy / "params.yaml").write_text(elsewhere)
        with running(sleepy, "pipelines.services", "up", output="up.txt") as up:
            wait_for((sleepy / ".imagemill/pages.json").exists, "the pages")
            assert interrupt(run) == 130
            second = wait_for(lambda: _answering(sleepy), "the server of the pages")
            assert (second.api_url, second.pid != first.pid) == (first.api_url, True)
            assert interrupt(up) == 0
            assert processes_of(sleepy) == []


def _answering(root: Path) -> server.Server | None:
    """The noted server, once it answers."""
    noted = server.read_note(root)
    return noted if noted is not None and server.answers(noted.api_url) else None
