"""`imagemill serve`: the `repro` flow on the schedule of prefect.yaml, on this one machine."""

import argparse
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from imagemill.errors import ParamsError, ServiceError, UserError
from imagemill.params import read_params, read_yaml
from pipelines import environment, processes, server
from pipelines.terminal import complain, say

DEPLOYMENTS = "prefect.yaml"
_POLL_SECONDS = 0.3
_GRACE_SECONDS = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Serve until a signal says stop: 0; 2 the user's mistake."""
    chosen = _parse(arguments)
    root = Path.cwd()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        if chosen.only_flow:
            return _serve_flow(root)
        return _serve(root, chosen.port)
    except UserError as error:
        complain(f"{error}")
        return 2
    except processes.Stopped:
        say("the schedule is over; everything that was started has ended")
        return 0


def read_deployment(root: Path) -> dict[str, Any]:
    """The first deployment of prefect.yaml.

    Raises:
        ParamsError: there is none, or it has no cron schedule.
    """
    deployments = read_yaml(root / DEPLOYMENTS).get("deployments") or []
    if not deployments or not deployments[0].get("schedules"):
        raise ParamsError(f"{DEPLOYMENTS} has no deployment with a schedule")
    first: dict[str, Any] = deployments[0]
    return first


def _serve_flow(root: Path) -> int:
    """Poll the server and run what it schedules; returns when stopped."""
    # Prefect 3.8's own signal handler forgets to await this; the runner has stopped all the same.
    warnings.filterwarnings("ignore", message="coroutine 'Runner.astop' was never awaited")
    from prefect.schedules import Cron

    from pipelines.repro import repro

    deployment = read_deployment(root)
    schedule = deployment["schedules"][0]
    repro.serve(
        name=deployment["name"],
        schedule=Cron(schedule["cron"], timezone=schedule["timezone"]),
        print_starting_message=False,
    )
    return 0


def _serve(root: Path, port: int | None) -> int:
    read_params(root)
    schedule = read_deployment(root)["schedules"][0]
    stop = processes.StopRequest()
    processes.adopt_orphans()
    stop.listen()
    lease: server.Lease | None = None
    try:
        lease = server.Lease.open(root, os.environ, port=port)
        while not lease.is_ready():
            stop.raise_if_asked()
            time.sleep(_POLL_SECONDS)
        runner = processes.start(
            [sys.executable, "-m", "pipelines.schedule", "--only-flow"],
            # Nobody else tells this terminal how a scheduled run failed.
            environment=os.environ
            | {"PREFECT_API_URL": lease.api_url, environment.CONSOLE_LEVEL: "ERROR"},
            root=root,
        )
        say(f"the flow repro runs at {schedule['cron']} ({schedule['timezone']}); Ctrl-C ends it")
        say(f"Prefect: {lease.page_url}")
        _watch(lease, runner, stop)
    finally:
        processes.end_descendants(grace_seconds=_GRACE_SECONDS)
        if lease is not None:
            lease.close()
    return 0


def _watch(
    lease: server.Lease, runner: subprocess.Popen[bytes], stop: processes.StopRequest
) -> None:
    while runner.poll() is None:
        stop.raise_if_asked()
        lease.check()
        time.sleep(_POLL_SECONDS)
    raise ServiceError(f"the schedule ended with exit status {runner.returncode}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="imagemill serve", description=__doc__)
    parser.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    parser.add_argument("--only-flow", action="store_true", help="a server is up: start none")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
