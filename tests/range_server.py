"""A web server for tests: files of a folder, by ranges; and everything that can go wrong."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, unquote


@dataclass
class RangeServer:
    """What a running server does, and what it was asked for."""

    root: Path
    url: str = ""
    serves_ranges: bool = True
    status: int | None = None  # instead of an answer
    breaks_after: int | None = None  # bytes of a body, and then the connection goes
    bodies: list[tuple[str, int]] = field(default_factory=list)  # (path, bytes sent)

    @property
    def num_bytes(self) -> int:
        """Bytes of all bodies."""
        return sum(size for _, size in self.bodies)


@contextmanager
def serving(root: Path) -> Iterator[RangeServer]:
    """A server on a free port of this machine until the block ends."""
    state = RangeServer(root)

    class Handler(_Handler):
        server_state = state

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: RangeServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, *, with_body: bool) -> None:
        state = self.server_state
        path = state.root / unquote(self.path.partition("?")[0]).lstrip("/")
        if state.status is not None or not path.exists():
            self.send_response(state.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.is_dir():
            self._send(200, _links(path), {"Content-Type": "text/html"}, with_body=with_body)
            return
        content, status = path.read_bytes(), path.stat()
        headers = {"ETag": f'"{status.st_mtime_ns}-{status.st_size}"'}
        asked = self.headers.get("Range")
        if asked and state.serves_ranges:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            self._send(206, content[start:end], headers, with_body=with_body)
        else:
            self._send(200, content, headers, with_body=with_body)

    def _send(
        self, status: int, content: bytes, headers: dict[str, str], *, with_body: bool
    ) -> None:
        state = self.server_state
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not with_body:
            return
        if state.breaks_after is not None and len(content) > state.breaks_after:
            self.wfile.write(content[: state.breaks_after])
            self.close_connection = True
            return
        state.bodies.append((self.path, len(content)))
        self.wfile.write(content)


def _links(folder: Path) -> bytes:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    links = (f'<a href="{quote(name)}">{html.escape(name)}</a>' for name in names)
    return ("<html><body>" + "".join(links) + "</body></html>").encode()
