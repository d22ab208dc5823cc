"""The installed set of packages works together: what `pip check` does not see."""

from pathlib import Path

import pytest
from toy_project import ask, call, flow_runs, running, wait_for

SCHEDULED_SECONDS = 30.0


def test_a_server_takes_a_flow_run(toy: Path, prefect_server: str) -> None:
    """A real server starts and a flow run completes on it."""
    call(toy, "pipelines.stage", "train", PREFECT_API_URL=prefect_server)
    assert flow_runs(prefect_server, "train")[0]["state_type"] == "COMPLETED"


def test_a_cron_schedule_yields_a_scheduled_run(toy: Path, prefect_server: str) -> None:
    """The schedule of prefect.yaml becomes a Scheduled run within half a minute."""
    with running(toy, "pipelines.schedule", "--only-flow", PREFECT_API_URL=prefect_server):

        def scheduled() -> list[str]:
            question = {
                "flows": {"name": {"any_": ["repro"]}},
                "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            }
            runs = ask(prefect_server, "flow_runs/filter", question)
            return [run["state_name"] for run in runs]

        found = wait_for(scheduled, "a scheduled run", seconds=SCHEDULED_SECONDS)
        assert set(found) == {"Scheduled"}


@pytest.mark.parametrize("verb", ["run", "serve", "up"])
def test_the_verbs_reach_the_pipelines(toy: Path, verb: str) -> None:
    """A verb of the CLI goes on as the program in pipelines/ that does it."""
    (toy / "params.yaml").write_text("nonsense: 1")
    done = call(toy, "imagemill", verb)
    assert (done.returncode, "unknown key 'nonsense'" in done.stderr) == (2, True)
