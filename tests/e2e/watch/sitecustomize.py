"""Imported by every Python process whose PYTHONPATH holds this folder: notes who it talks to."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

_OURSELVES = {"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname()}


def _note(event: str, details: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = details[0]
    elif event in ("socket.connect", "socket.sendto") and isinstance(details[1], tuple):
        host = details[1][0]
    else:
        return
    name = host.decode() if isinstance(host, bytes) else str(host or "")
    if name not in _OURSELVES and not name.startswith("127."):
        with Path(os.environ["IMAGEMILL_TALK"]).open("a", encoding="utf-8") as notes:
            notes.write(f"{event} {name} from {sys.argv}\n")


sys.addaudithook(_note)
