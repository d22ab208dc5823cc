"""`imagemill promote` where the policy asks for a person: a flow that waits in the Prefect UI.

The rule decides first; who passes it is shown with every reason, and nothing moves until somebody
agrees on the page of the flow run (or `promote.wait_seconds` are over, which refuses).
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.runtime import flow_run
from prefect.utilities.urls import url_for
from pydantic import Field

from imagemill import tracking
from imagemill.errors import ServiceError, UserError
from imagemill.params import Params, read_params
from imagemill.promote import Decision
from pipelines import environment, processes, server
from pipelines.prefect_tracker import run_tracked
from pipelines.terminal import complain, say
from pipelines.tracker import Tracker

_POLL_SECONDS = 1  # between looks at whether somebody has answered
_GRACE_SECONDS = 10.0


class Approval(RunInput):
    """The form on the page."""

    agree: bool = Field(description="Make this version champion.")
    name: str = Field(min_length=1, description="Who says so; it goes into the history.")


class NotAgreedError(UserError):
    """Somebody said no, or nobody said anything."""


def promote(
    root: Path, params: Params, tracker: Tracker, *, version: str, by: str, why: str | None
) -> None:
    """Decide, wait for a person, move the aliases.

    Raises:
        NotAgreedError: the policy, a person or the clock refused; the old aliases stay.
    """
    # Not a step of the tracker: only a flow can pause, a task cannot.
    decision, move = tracking.promote(
        root,
        params,
        version,
        by=by,
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        why=why,
        agree=partial(_ask, tracker, params.promote.wait_seconds),
    )
    for reason in decision.reasons:
        tracker.log(reason)
    if not decision.promoted:
        raise NotAgreedError(f"refused: {'; '.join(decision.reasons)}")
    tracker.log(str(move))


def _ask(tracker: Tracker, seconds: int, decision: Decision) -> str:
    """Wait for the form; returns who agreed."""
    one, champion = decision.candidate, decision.champion
    came = f"version {champion.version} ({champion.variant})" if champion else "nobody"
    question = f"version {one.version} ({one.variant}) instead of {came} as champion?"
    page = url_for("flow-run", obj_id=flow_run.id)
    tracker.log(f"waiting up to {seconds} s for a person: {question} Answer at {page}")
    reasons = "\n".join(f"- {reason}" for reason in decision.reasons)
    form = Approval.with_initial_data(description=f"{question}\n\n{reasons}")
    try:
        answer = pause_flow_run(wait_for_input=form, timeout=seconds, poll_interval=_POLL_SECONDS)
    except FlowPauseTimeout:
        raise NotAgreedError(f"nobody agreed within {seconds} s; the old aliases stay") from None
    assert answer is not None
    if not answer.agree:
        raise NotAgreedError(f"{answer.name} did not agree; the old aliases stay")
    return f"agreed by {answer.name}"


def main(arguments: list[str] | None = None) -> int:
    """Promote in the current folder; 0 done, 2 refused or a mistake, 128 + signal when stopped."""
    chosen = _parse(arguments)
    root = Path.cwd()
    processes.adopt_orphans()
    processes.raise_when_stopped()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        _run(root, read_params(root), chosen)
    except UserError as error:
        complain(f"{error}")
        return 2
    except processes.Stopped as stopped:
        complain("stopped; the old aliases stay")
        return stopped.exit_status
    return 0


def _run(root: Path, params: Params, chosen: argparse.Namespace) -> None:
    lease: server.Lease | None = None
    try:
        lease = server.Lease.open(root, os.environ, port=chosen.port)
        deadline = time.monotonic() + server.START_SECONDS
        while not lease.is_ready():
            if time.monotonic() > deadline:
                raise ServiceError("the Prefect server did not answer")
            time.sleep(0.1)
        say(f"Prefect shows this promotion at {lease.page_url}")
        os.environ["PREFECT_API_URL"] = lease.api_url
        asked = {"version": chosen.version, "by": chosen.by, "why": chosen.why}
        flow = partial(promote, root, params, **asked)
        run_tracked("promote", f"promote {chosen.version}", flow, parent=None, say=say)
    finally:
        if lease is not None:
            lease.close()
        processes.end_descendants(grace_seconds=_GRACE_SECONDS)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="imagemill promote", description=__doc__)
    parser.add_argument("version", help="number, alias or variant")
    parser.add_argument("--by", required=True, help="who asks")
    parser.add_argument("--why", help="a sentence for the history")
    parser.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
