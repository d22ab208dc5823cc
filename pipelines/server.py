"""The project's Prefect server: is one up, on which port, how to start one."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

import psutil

from imagemill import records
from imagemill.errors import BusyError, ServiceError
from pipelines import processes
from pipelines.environment import api_url, server_environment

NOTE = records.STATE / "services.json"
SERVER_LOG = records.STATE / "prefect-server.log"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEALTH_SECONDS = 1.0
START_SECONDS = 120.0
_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Server:
    """A Prefect server somebody noted in `.imagemill/services.json`."""

    api_url: str
    pid: int
    started: float  # seconds since the epoch, tells a process from a later one with its id
    owner_pid: int
    owner_started: float


def find(root: Path, environ: Mapping[str, str]) -> str | None:
    """API address of a server that answers: the one PREFECT_API_URL names, else the noted one."""
    named = environ.get("PREFECT_API_URL")
    if named:
        return named if answers(named) else None
    noted = read_note(root)
    if noted is None or not is_alive(noted.pid, noted.started):
        return None
    return noted.api_url if is_loopback(noted.api_url) and answers(noted.api_url) else None


def answers(url: str) -> bool:
    """Whether a Prefect API answers at `url` within a second."""
    if urlsplit(url).scheme not in ("http", "https"):
        return False
    # The system's proxies are for the outside.
    opener = build_opener(ProxyHandler({})) if is_loopback(url) else build_opener()
    try:
        with opener.open(f"{url.rstrip('/')}/health", timeout=_HEALTH_SECONDS) as answer:
            return bytes(answer.read(16)).strip() == b"true"
    except (OSError, HTTPException, ValueError):
        return False


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine over plain HTTP."""
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in _LOOPBACK


def is_alive(pid: int, started: float) -> bool:
    """Whether the process noted as `pid` still runs, and is not another with its id."""
    try:
        return abs(float(psutil.Process(pid).create_time()) - started) < 1
    except psutil.NoSuchProcess:
        return False


def read_note(root: Path) -> Server | None:
    """The noted server, if there is a readable note."""
    try:
        return Server(**json.loads((root / NOTE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(root: Path, process: subprocess.Popen[bytes], port: int) -> Server:
    """Note a started server for stages and other commands to find."""
    us = psutil.Process()
    server = Server(
        api_url=api_url(port),
        pid=process.pid,
        started=psutil.Process(process.pid).create_time(),
        owner_pid=us.pid,
        owner_started=us.create_time(),
    )
    records.write_json(root / NOTE, asdict(server))
    return server


def _erase_note(root: Path, pid: int) -> None:
    """Forget the server `pid`, if it is the noted one."""
    noted = read_note(root)
    if noted is not None and noted.pid == pid:
        (root / NOTE).unlink(missing_ok=True)


def end_abandoned(root: Path) -> None:
    """End a noted server whose owner was killed before it could end it."""
    noted = read_note(root)
    if noted is None or is_alive(noted.owner_pid, noted.owner_started):
        return
    if is_alive(noted.pid, noted.started):
        process = psutil.Process(noted.pid)
        process.terminate()
        _gone, alive = psutil.wait_procs([process], timeout=5)
        for survivor in alive:
            survivor.kill()
    (root / NOTE).unlink(missing_ok=True)


class Lease:
    """A server to use: one that was up already, or our own, which ends with us."""

    def __init__(self, root: Path, api_url: str, process: subprocess.Popen[bytes] | None) -> None:
        self.api_url = api_url
        self._root = root
        self._process = process
        noted = read_note(root)
        is_noted = noted is not None and noted.api_url == api_url
        self._noted = (noted.pid, noted.started) if noted is not None and is_noted else None
        self._deadline = time.monotonic() + START_SECONDS

    @classmethod
    def open(
        cls, root: Path, environ: Mapping[str, str], *, port: int | None, usual: int | None = None
    ) -> Self:
        """Find a server that answers, or begin to start one.

        Args:
            root: The project's root.
            environ: The environment of the server; PREFECT_API_URL names one to use.
            port: Where to start one; None: anywhere free.
            usual: The port to try first where none is given.

        Raises:
            ServiceError: PREFECT_API_URL names a server that does not answer.
            BusyError: `port` is taken.
        """
        end_abandoned(root)
        found = find(root, environ)
        if found is not None:
            return cls(root, found, None)
        if named := environ.get("PREFECT_API_URL"):
            raise ServiceError(
                f"no Prefect server answers at PREFECT_API_URL ({named}); start it, or unset the "
                "variable and a local one is started"
            )
        free = choose_port(port, usual)
        process = _start(root, environ, free)
        return cls(root, _write_note(root, process, free).api_url, process)

    @property
    def page_url(self) -> str:
        return self.api_url.removesuffix("/api")

    @property
    def is_own(self) -> bool:
        return self._process is not None

    def is_ready(self) -> bool:
        """Whether the server answers.

        Raises:
            ServiceError: it ended, or has not answered for too long.
        """
        self.check()
        if answers(self.api_url):
            return True
        if time.monotonic() > self._deadline:
            raise self._died(f"did not answer within {START_SECONDS:.0f} s")
        return False

    def check(self) -> None:
        """See whether the server's process still runs, where it is one of this machine.

        Raises:
            ServiceError: it ended.
        """
        if self._process is not None:
            is_over = self._process.poll() is not None
        else:
            is_over = self._noted is not None and not is_alive(*self._noted)
        if is_over:
            raise self._died("ended by itself")

    def close(self) -> None:
        """End the server if it is our own."""
        if self._process is None:
            return
        if self._process.poll() is None:
            processes.end_group(self._process, grace_seconds=_GRACE_SECONDS)
        _erase_note(self._root, self._process.pid)

    def _died(self, what: str) -> ServiceError:
        return ServiceError(
            f"the Prefect server {what}; its last words are in {self._root / SERVER_LOG}"
        )


def _start(root: Path, environ: Mapping[str, str], port: int) -> subprocess.Popen[bytes]:
    (root / SERVER_LOG).parent.mkdir(parents=True, exist_ok=True)
    with (root / SERVER_LOG).open("wb") as log:
        return processes.start(
            [
                *(sys.executable, "-m", "prefect", "server", "start"),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            environment=server_environment(environ, root, port),
            root=root,
            stdout=log,
            stderr=log,
        )


def choose_port(wanted: int | None, usual: int | None = None) -> int:
    """`wanted` if it is free; without a wish the usual one if free, else any free port.

    Raises:
        BusyError: `wanted` is taken.
    """
    if wanted is None:
        return usual if usual is not None and _is_free(usual) else _any_free_port()
    if not _is_free(wanted):
        raise BusyError(
            f"port {wanted} is taken{_holder(wanted)}; choose another with --port, "
            "or leave it out to get a free one"
        )
    return wanted


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _any_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _holder(port: int) -> str:
    """Who listens on `port`, as far as the system tells us."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        return ""
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            name = psutil.Process(connection.pid).name() if connection.pid else "another user's"
            return (
                f" by process {connection.pid} ({name})"
                if connection.pid
                else f" by {name} process"
            )
    return ""
