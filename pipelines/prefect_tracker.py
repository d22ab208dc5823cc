"""A stage as a Prefect flow run, its steps as tasks, and its place under the `repro` run.

The only file that leans on Prefect's inner engine (`run_flow`): tests/test_runs.py runs it
against a real server, so a Prefect release that moves it is noticed.
"""

import base64
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

import httpx
from prefect import flow, task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.flow_engine import run_flow
from prefect.flows import Flow
from prefect.logging import get_run_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)
from prefect.states import Crashed, Failed, Running

from imagemill.errors import ServiceError, UserError
from pipelines.tracker import Tracker

P = ParamSpec("P")
R = TypeVar("R")
Log = Callable[[str], None]

_PROGRESS_SECONDS = 2.0  # an update is a call to the server

_MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".svg": "image/svg+xml",
}
_RUNNING = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
_OPEN = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))


class PrefectTracker:
    """Steps become tasks; lines go to the flow run's log and, once, to the terminal."""

    def __init__(self, say: Log) -> None:
        self._say = say
        self._logger = get_run_logger()
        self._progress: dict[str, UUID] = {}
        self._progress_told = 0.0

    def log(self, line: str) -> None:
        self._logger.info(line)
        self._say(line)

    def step(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        # The task takes no arguments: Prefect would walk through every array and list of keys.
        def call() -> R:
            return function(*args, **kwargs)

        name = function.__name__.strip("_").replace("_", " ")
        step = task(name=name, persist_result=False, cache_policy=NO_CACHE)(call)
        return step()

    def progress(self, fraction: float, description: str) -> None:
        now = time.monotonic()
        if fraction < 1 and now - self._progress_told < _PROGRESS_SECONDS:
            return
        self._progress_told = now
        percent = 100 * min(max(fraction, 0.0), 1.0)
        known = self._progress.get(description)
        if known is not None:
            update_progress_artifact(known, progress=percent)
            return
        made = create_progress_artifact(progress=percent, description=description)
        assert isinstance(made, UUID)
        self._progress[description] = made

    def table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        create_table_artifact(list(rows), key=key)

    def image(self, key: str, path: Path) -> None:
        media_type = _MEDIA_TYPES[path.suffix.lower()]
        encoded = base64.b64encode(path.read_bytes()).decode()
        create_image_artifact(f"data:{media_type};base64,{encoded}", key=key)

    def link(self, key: str, url: str, text: str) -> None:
        create_link_artifact(url, link_text=text, key=key)


def run_tracked(
    stage: str, name: str, function: Callable[[Tracker], None], *, parent: str | None, say: Log
) -> None:
    """Run `function` as a flow run called `name` of the flow `stage`.

    Args:
        stage: Name of the flow.
        name: Name of this run.
        function: The work; what it raises is raised again here.
        parent: Id of the flow run to attach to as a subflow, if any.
        say: Where log lines go beside the flow run's log.

    Raises:
        ServiceError: the server stopped answering.
    """
    raised: list[Exception] = []

    def body() -> State[Any] | None:
        try:
            function(PrefectTracker(say))
        except UserError as error:
            raised.append(error)
            # A state of our own: its message is the sentence and nothing else.
            return Failed(message=str(error))
        except Exception as error:
            raised.append(error)
            raise
        return None

    # The parent watches its stages; their heartbeat thread costs each a second at its end.
    with temporary_settings(updates={PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        tracked = flow(name=stage, persist_result=False, validate_parameters=False)(body)
        try:
            run_flow(tracked, _create_run(tracked, name, parent), return_type="state")
        except httpx.TransportError as error:
            raised.append(error)
    for cause in raised:
        if isinstance(cause, httpx.TransportError):
            raise _gone() from cause
        raise cause


def _create_run(tracked: Flow[[], Any], name: str, parent: str | None) -> FlowRun:
    """A flow run on the server; under a parent, held by a task run of it as any subflow is."""
    with get_client(sync_client=True) as client:
        if parent is None:
            return client.create_flow_run(tracked, name=name)
        holder = client.create_task_run(
            task=task(name=name)(tracked.fn),
            flow_run_id=UUID(parent),
            dynamic_key=name,
            name=name,
            state=Running(),
        )
        return client.create_flow_run(tracked, name=name, parent_task_run_id=holder.id)


def close_children(run_id: str) -> None:
    """Mark subflow runs as crashed whose stage was killed before it could say so."""
    with get_client(sync_client=True) as client:
        below = FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(run_id)]), state=_OPEN
        )
        for run in client.read_flow_runs(flow_run_filter=below):
            client.set_flow_run_state(run.id, Crashed(message="its process is gone"), force=True)


def close_abandoned(flow_name: str, *, besides: str) -> None:
    """Mark runs of a flow that were killed with their server as crashed, and their subflows.

    Args:
        flow_name: The flow; no run of it but one may be at work.
        besides: That one.
    """
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
            flow_run_filter=FlowRunFilter(state=_RUNNING),
        )
        for run in runs:
            if str(run.id) != besides:
                close_children(str(run.id))
                client.set_flow_run_state(run.id, Crashed(message="it was killed"), force=True)


def _gone() -> ServiceError:
    # Prefect would go on to complain about every line it cannot deliver.
    logging.raiseExceptions = False
    return ServiceError(f"the Prefect server at {PREFECT_API_URL.value()} stopped answering")
