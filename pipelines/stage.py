"""`python -m pipelines.stage <stage> [variant]`: what DVC calls for every stage.

Plain stages call their core. Flow stages are tracked when a Prefect server answers; otherwise the
same function runs untracked and nothing of Prefect is imported.
"""

import sys

try:
    from imagemill import records
    from imagemill.errors import ParamsError, ToBeResumedError, UnknownNameError, UserError
    from imagemill.params import Params, read_params
except ModuleNotFoundError as missing:
    if missing.name is None or missing.name.split(".")[0] not in ("imagemill", "pydantic"):
        raise
    sys.stderr.write(
        f"imagemill is not installed for the python that runs this stage ({sys.executable}); "
        "activate the environment first: source .venv/bin/activate\n"
    )
    raise SystemExit(2) from None

import argparse
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from pipelines import environment, processes, server
from pipelines.terminal import LOGGED, complain, say
from pipelines.tracker import Untracked

PLAIN = ("ingest", "audit", "split", "shard", "report")
_TO_BE_RESUMED = 75  # EX_TEMPFAIL of sysexits.h: not done, try again
FLOWS = ("augment", "label_review", "train", "compress", "evaluate", "explain", "register")


def main(arguments: list[str] | None = None) -> int:
    """Run one stage; 0 done, 2 the user's mistake, 75 to be resumed, 128 + signal if stopped."""
    chosen = _parse(arguments)
    root = Path.cwd()
    processes.raise_when_stopped()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        if chosen.rehash:
            _ingest(root, read_params(root), rehash=True)
        elif chosen.full:
            _shard(root, read_params(root), full=True)
        else:
            run_stage(root, chosen.stage, chosen.variant, os.environ)
    except UserError as error:
        _tell_failure(chosen.stage, str(error), os.environ)
        return _TO_BE_RESUMED if isinstance(error, ToBeResumedError) else 2
    except processes.Stopped as stopped:
        processes.end_descendants(grace_seconds=5)
        return stopped.exit_status
    return 0


def run_stage(root: Path, stage: str, variant: str | None, environ: Mapping[str, str]) -> None:
    """Run a stage on the project at `root`.

    Raises:
        UserError: whatever the stage has to tell the user.
    """
    params = read_params(root)
    if stage in PLAIN:
        _run_plain(root, stage, params)
        return
    if stage not in FLOWS:
        raise UnknownNameError("stage", stage, PLAIN + FLOWS)
    flow = partial(_load_flow(stage), root, params)
    if stage == "compress":
        flow = partial(flow, variant=_known_variant(params, variant))
    if _is_switched_off(stage, params):
        flow(tracker=Untracked())  # importing Prefect would take longer than this
        return
    name = stage if variant is None else f"{stage} {variant}"
    _run_flow(root, stage, name, flow, environ)


def _is_switched_off(stage: str, params: Params) -> bool:
    return stage == "label_review" and not params.label_review.enabled


def _run_flow(
    root: Path, stage: str, name: str, flow: Callable[..., None], environ: Mapping[str, str]
) -> None:
    url = server.find(root, environ)
    if url is None:
        say("no Prefect server: this run is not tracked")
        flow(tracker=Untracked())
        return
    os.environ["PREFECT_API_URL"] = url
    from pipelines.prefect_tracker import run_tracked

    parent = environ.get(environment.PARENT_FLOW_RUN)
    run_tracked(stage, name, lambda tracker: flow(tracker=tracker), parent=parent, say=_say_logged)


def _load_flow(stage: str) -> Callable[..., None]:
    function: Callable[..., None] = getattr(import_module(f"pipelines.{stage}"), stage)
    return function


def _run_plain(root: Path, stage: str, params: Params) -> None:
    # Each stage imports only what it needs: data stages start without torch.
    match stage:
        case "ingest":
            _ingest(root, params)
        case "audit":
            from imagemill.audit import audit

            audit(root, params.audit, log=say)
        case "split":
            from imagemill.split import split

            split(root, params.split, log=say)
        case "shard":
            _shard(root, params)
        case "report":
            from imagemill.report import report

            report(root, params, log=say)


def _ingest(root: Path, params: Params, *, rehash: bool = False) -> None:
    from imagemill.ingest import ingest

    ingest(root, params.ingest, log=say, rehash=rehash)


def _shard(root: Path, params: Params, *, full: bool = False) -> None:
    from imagemill.shard import shard

    shard(root, params.shard, log=say, full=full)


def _known_variant(params: Params, variant: str | None) -> str:
    if variant is None:
        raise ParamsError(f"compress needs a variant: one of {', '.join(params.compress.variants)}")
    if variant not in params.compress.variants:
        raise UnknownNameError("variant", variant, params.compress.variants)
    return variant


def _say_logged(line: str) -> None:
    marked = environment.PARENT_FLOW_RUN in os.environ
    say(LOGGED + line if marked else line)


def _tell_failure(stage: str, message: str, environ: Mapping[str, str]) -> None:
    """Hand the sentence to the run we belong to, which says it last; alone, say it here."""
    note = environ.get(environment.FAILURE_FILE)
    if note is None:
        complain(f"{stage}: {message}")
        return
    records.write_json(Path(note), {"stage": stage, "message": message})


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipelines.stage", description=__doc__)
    parser.add_argument("stage", choices=PLAIN + FLOWS)
    parser.add_argument("variant", nargs="?", help="compress: which variant")
    parser.add_argument("--rehash", action="store_true", help="ingest: read every image again")
    parser.add_argument("--full", action="store_true", help="shard: write every shard again")
    chosen = parser.parse_args(arguments)
    if chosen.rehash and chosen.stage != "ingest":
        parser.error("--rehash belongs to ingest")
    if chosen.full and chosen.stage != "shard":
        parser.error("--full belongs to shard")
    return chosen


if __name__ == "__main__":
    raise SystemExit(main())
