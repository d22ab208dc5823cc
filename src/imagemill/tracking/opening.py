"""Before MLflow is asked: a database that is whole, or a server that answers."""

import fcntl
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from imagemill.errors import ServiceError
from imagemill.records import publishing
from imagemill.tracking.address import sqlite_file, without_password

ANSWER_SECONDS = 5.0
_MAGIC = b"SQLite format 3\0"


def open_address(root: Path, tracking_uri: str, make_schema: Callable[[Path], None]) -> None:
    """Say at once what MLflow would find out after minutes of retries; make a missing database.

    Args:
        root: The project's root.
        tracking_uri: As in params.yaml.
        make_schema: Turns a path into a database file with MLflow's schema.

    Raises:
        ServiceError: a file that is no database or cannot be written, a server that is silent.
    """
    file = sqlite_file(root, tracking_uri)
    if file is not None:
        _open_database(file, make_schema)
    elif tracking_uri.startswith("http"):
        _check_server(tracking_uri)


def _open_database(file: Path, make_schema: Callable[[Path], None]) -> None:
    try:
        with _alone_in(file.parent):
            if not file.exists() or file.stat().st_size == 0:
                # Under another name first: a schema that was half made when its maker was killed
                # can neither be used nor completed.
                with publishing(file) as temporary:
                    make_schema(temporary)
        with file.open("rb+") as stream:
            head = stream.read(len(_MAGIC))
    except OSError as error:
        raise ServiceError(f"{file} cannot be opened for writing: {error.strerror}") from None
    if head != _MAGIC:
        raise ServiceError(
            f"{file} is not an SQLite database; move it away and `imagemill run` fills a new one "
            "from models/ and reports/"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """One process at a time: two that start together must not both make the database."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_server(address: str) -> None:
    health = f"{address.rstrip('/')}/health"
    try:
        with urllib.request.urlopen(health, timeout=ANSWER_SECONDS):
            return
    except urllib.error.HTTPError:
        return  # it answers; what it refuses is told by the call that is refused
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ServiceError(
            f"no MLflow server answers at {without_password(address)} ({reason}); start it, or "
            "set register.tracking_uri to sqlite:///mlflow.db"
        ) from None
