"""`imagemill up` and `down`: the Prefect and MLflow pages on the project's own state."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil

from imagemill import records
from imagemill.errors import BusyError, ServiceError, UserError
from imagemill.params import read_params
from imagemill.records import Registration
from imagemill.tracking import compare_link
from imagemill.tracking.address import is_server, resolve_uri, without_password
from pipelines import environment, processes, server
from pipelines.terminal import complain, say

NOTE = records.STATE / "pages.json"
MLFLOW_LOG = records.STATE / "mlflow-ui.log"
UP_LOG = records.STATE / "up.log"
_PREFECT_PORT = 4200
_MLFLOW_PORT = 5000
_POLL_SECONDS = 0.3
_GRACE_SECONDS = 8.0


@dataclass(frozen=True)
class Pages:
    """Where the pages of a project are, and who serves them."""

    pid: int
    started: float
    prefect: str
    mlflow: str


def main(arguments: list[str] | None = None) -> int:
    """Serve the pages, or end who does; 0 done, 2 the user's mistake, 128 + signal."""
    chosen = _parse(arguments)
    root = Path.cwd()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        if chosen.action == "down":
            return _down(root)
        if chosen.detach:
            return _detach(root, chosen)
        return Up(root, chosen.prefect_port, chosen.mlflow_port).serve()
    except UserError as error:
        complain(f"{error}")
        return 2
    except KeyboardInterrupt:
        return 130


class Up:
    """The two servers of a project, until a signal says stop."""

    def __init__(self, root: Path, prefect_port: int | None, mlflow_port: int | None) -> None:
        self._root = root
        self._tracking_uri = read_params(root).register_.tracking_uri
        self._stop = processes.StopRequest()
        self._wanted = prefect_port, mlflow_port
        self._prefect: server.Lease | None = None
        self._mlflow: subprocess.Popen[bytes] | None = None

    def serve(self) -> int:
        """Start what is not there yet, print the addresses, wait for a signal.

        Raises:
            BusyError: pages of this project are up already, or a wanted port is taken.
            ServiceError: a server did not start, or died.
        """
        _refuse_second(self._root)
        processes.adopt_orphans()
        self._stop.listen()
        try:
            lease = self._open_prefect(self._wanted[0])
            mlflow_url = self._open_mlflow()
            self._wait_until_both_answer(lease, mlflow_url)
            self._announce(Pages(*_identity(), lease.page_url, mlflow_url))
            self._watch()
        except processes.Stopped:
            say("both pages are closed")
        finally:
            processes.end_descendants(grace_seconds=_GRACE_SECONDS)
            if self._prefect is not None:
                self._prefect.close()
            _erase_note(self._root)
        return 0

    def _open_prefect(self, port: int | None) -> server.Lease:
        self._prefect = server.Lease.open(self._root, os.environ, port=port, usual=_PREFECT_PORT)
        return self._prefect

    def _open_mlflow(self) -> str:
        if is_server(self._tracking_uri):
            return without_password(self._tracking_uri)
        port = server.choose_port(self._wanted[1], usual=_MLFLOW_PORT)
        with (self._root / MLFLOW_LOG).open("wb") as log:
            self._mlflow = processes.start(
                [
                    *(sys.executable, "-m", "mlflow", "server"),
                    *("--backend-store-uri", resolve_uri(self._root, self._tracking_uri)),
                    *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
                ],
                environment=os.environ,
                root=self._root,
                stdout=log,
                stderr=log,
            )
        return f"http://127.0.0.1:{port}"

    def _wait_until_both_answer(self, lease: server.Lease, mlflow_url: str) -> None:
        deadline = time.monotonic() + server.START_SECONDS
        # A server of the user's may want a password: it is shown, not asked.
        while not (lease.is_ready() and (self._mlflow is None or _answers(mlflow_url))):
            self._pause()
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"the MLflow page did not answer within {server.START_SECONDS:.0f} s; "
                    f"see {self._root / MLFLOW_LOG}"
                )

    def _announce(self, pages: Pages) -> None:
        records.write_json(self._root / NOTE, asdict(pages))
        for line in describe(self._root, pages):
            say(line)
        say("Ctrl-C closes both")

    def _watch(self) -> None:
        while True:
            self._pause()
            lease = self._prefect
            assert lease is not None
            if not lease.is_own and not server.answers(lease.api_url):
                # The server belonged to a run that is over; its page stays, on the same port.
                self._open_prefect(urlsplit(lease.api_url).port)

    def _pause(self) -> None:
        self._stop.raise_if_asked()
        if self._prefect is not None and self._prefect.is_own:
            self._prefect.check()
        if self._mlflow is not None and self._mlflow.poll() is not None:
            raise ServiceError(
                f"the MLflow page ended; its last words are in {self._root / MLFLOW_LOG}"
            )
        time.sleep(_POLL_SECONDS)


def describe(root: Path, pages: Pages) -> list[str]:
    """The addresses of the pages, and of the comparison of the last run's versions."""
    lines = [f"Prefect: {pages.prefect}", f"MLflow:  {pages.mlflow}"]
    if (root / records.REGISTER).exists():
        link = compare_link(pages.mlflow, Registration.read(root / records.REGISTER))
        lines.append(f"the last run's variants side by side: {link}")
    return lines


def _detach(root: Path, chosen: argparse.Namespace) -> int:
    _refuse_second(root)
    wishes = [
        *(["--prefect-port", str(chosen.prefect_port)] if chosen.prefect_port else []),
        *(["--mlflow-port", str(chosen.mlflow_port)] if chosen.mlflow_port else []),
    ]
    (root / UP_LOG).parent.mkdir(parents=True, exist_ok=True)
    with (root / UP_LOG).open("wb") as log:
        up = processes.start(
            [sys.executable, "-m", "pipelines.services", "up", *wishes],
            environment=os.environ,
            root=root,
            stdout=log,
            stderr=log,
        )
    try:
        pages = _wait_for_pages(root, up)
    except BaseException:
        processes.end_group(up, grace_seconds=_GRACE_SECONDS)
        raise
    for line in describe(root, pages):
        say(line)
    say("`imagemill down` closes both")
    return 0


def _wait_for_pages(root: Path, up: subprocess.Popen[bytes]) -> Pages:
    while (pages := _read_note(root)) is None:
        if up.poll() is not None:
            words = (root / UP_LOG).read_text(encoding="utf-8").strip().splitlines()
            raise ServiceError(words[-1] if words else "the pages ended at once")
        time.sleep(_POLL_SECONDS)
    return pages


def _down(root: Path) -> int:
    pages = _read_note(root)
    if pages is None:
        say("no pages of this project are up")
        return 0
    process = psutil.Process(pages.pid)
    process.terminate()
    process.wait(2 * _GRACE_SECONDS)
    say("both pages are closed")
    return 0


def _refuse_second(root: Path) -> None:
    pages = _read_note(root)
    if pages is not None:
        raise BusyError(
            f"the pages of this project are up already (process {pages.pid}): "
            f"{pages.prefect} and {pages.mlflow}; `imagemill down` closes them"
        )


def _read_note(root: Path) -> Pages | None:
    """Who serves the pages, if they are still there."""
    try:
        pages = Pages(**json.loads((root / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return pages if server.is_alive(pages.pid, pages.started) else None


def _erase_note(root: Path) -> None:
    pages = _read_note(root)
    if pages is not None and pages.pid == os.getpid():
        (root / NOTE).unlink()


def _identity() -> tuple[int, float]:
    us = psutil.Process()
    return us.pid, us.create_time()


def _answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(f"{url}/health", timeout=1):
            return True
    except (URLError, OSError):
        return False


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="imagemill", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up")
    up.add_argument("--prefect-port", type=int)
    up.add_argument("--mlflow-port", type=int)
    up.add_argument("--detach", action="store_true")
    actions.add_parser("down")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
