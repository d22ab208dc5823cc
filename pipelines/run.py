"""`imagemill run`, which `make run` calls: the whole path once, and nothing left behind.

This process imports no Prefect: it starts a server and the flow `repro`, watches both, and ends
whatever it started, so that it can act at once whatever state they are in.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from imagemill.errors import ServiceError, UserError
from imagemill.table import result_table
from pipelines import environment, processes, server, store
from pipelines.lock import run_lock
from pipelines.prepare import prepare
from pipelines.terminal import complain, say

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 25.0  # more than `repro` gives the stage


def main(arguments: list[str] | None = None) -> int:
    """Run the project in the current folder; 0 done, 2 the user's mistake, 128 + signal."""
    chosen = _parse(arguments)
    root = Path.cwd()
    os.environ.update(environment.quiet_environment(os.environ, root))
    try:
        with run_lock(root):
            return _run(root, chosen.port)
    except UserError as error:
        complain(f"{error}")
        return 2
    except processes.Stopped as stopped:
        complain("stopped; everything that was started has ended")
        return stopped.exit_status
    except KeyboardInterrupt:
        return 130


def _run(root: Path, port: int | None) -> int:
    began = time.monotonic()
    prepare(root, say)
    status = Run(root, port).whole()
    if status == 0:
        say("")
        say(result_table(root))
        say("")
        say(f"done in {time.monotonic() - began:.0f} s; make ui opens the Prefect and MLflow pages")
        say(f"the same as one page: {root / 'reports/index.html'}")
    return status


class Run:
    """The processes of one run and the order in which they are started and ended."""

    def __init__(self, root: Path, port: int | None) -> None:
        self._root = root
        self._stop = processes.StopRequest()
        self._server: server.Lease | None = None
        self._port = port

    def whole(self) -> int:
        """Start, watch and end everything; returns the exit status.

        Raises:
            ServiceError: the server did not start, or died.
            BusyError: the wanted port is taken.
            Stopped: a signal asked us to stop.
        """
        processes.adopt_orphans()
        self._stop.listen()
        flow: subprocess.Popen[bytes] | None = None
        try:
            lease = server.Lease.open(self._root, os.environ, port=self._port)
            self._server = lease
            say(f"Prefect shows this run at {lease.page_url}")
            check = self._start("imagemill", "check")
            prepared = [self._start("pipelines.store")] if store.is_needed(self._root) else []
            flow = self._start("pipelines.repro", stdin=subprocess.PIPE)
            # The store too: a stage must not meet a database that is still being made.
            for process in (check, *prepared):
                if status := self._wait_for(process):
                    return status
            self._watch_until(lease.is_ready)
            return self._wait_for(flow, begin=True)
        except ServiceError:
            # Without their server the stages would only complain: no grace.
            processes.end_descendants(grace_seconds=0)
            raise
        finally:
            self._end(flow)

    def _start(
        self, module: str, *arguments: str, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        assert self._server is not None
        return processes.start(
            [sys.executable, "-m", module, *arguments],
            environment=os.environ | {"PREFECT_API_URL": self._server.api_url},
            root=self._root,
            stdin=stdin,
        )

    def _wait_for(self, process: subprocess.Popen[bytes], *, begin: bool = False) -> int:
        if begin:
            assert process.stdin is not None
            process.stdin.write(b"begin\n")
            process.stdin.flush()
        self._watch_until(lambda: process.poll() is not None)
        assert process.returncode is not None
        if process.returncode < 0:
            complain(f"a part of this run was killed by signal {-process.returncode}")
            return 128 - process.returncode
        return process.returncode

    def _watch_until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._stop.raise_if_asked()
            if self._server is not None:
                self._server.check()
            time.sleep(_POLL_SECONDS)

    def _end(self, flow: subprocess.Popen[bytes] | None) -> None:
        """The flow first, while its server can still note how it ended; then all the rest."""
        if flow is not None and flow.poll() is None:
            flow.terminate()
            processes.wait_at_most(flow, seconds=_GRACE_SECONDS)
        processes.end_descendants(grace_seconds=_GRACE_SECONDS)
        if self._server is not None:
            self._server.close()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="imagemill run", description=__doc__)
    parser.add_argument("--port", type=int, help="port of the Prefect server (default: a free one)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
