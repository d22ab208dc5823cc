"""Where a project's MLflow store is: addresses as text, without mlflow."""

from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from imagemill.errors import ParamsError

ARTIFACTS = Path("mlartifacts")  # in the project's root; an http(s) server keeps its own

_SQLITE = "sqlite:///"
_SERVERS = ("http://", "https://")
_DATABASES = ("postgresql://", "postgresql+")


def resolve_uri(root: Path, tracking_uri: str) -> str:
    """The address MLflow is given: an SQLite file is looked for from the project's root.

    Raises:
        ParamsError: an address of another kind.
    """
    file = sqlite_file(root, tracking_uri)
    if file is not None:
        return f"{_SQLITE}{file}"
    if tracking_uri.startswith((*_SERVERS, *_DATABASES)):
        return tracking_uri
    raise ParamsError(
        "register.tracking_uri: expected sqlite:///<file>, postgresql://... or http(s)://..., "
        f"got {tracking_uri!r}"
    )


def sqlite_file(root: Path, tracking_uri: str) -> Path | None:
    """The database file of an SQLite store, absolute; None for stores of other kinds."""
    if not tracking_uri.startswith(_SQLITE):
        return None
    return (root / tracking_uri.removeprefix(_SQLITE)).resolve()


def local_path(location: str) -> Path | None:
    """Where files are on this machine; None for those in an artifact store elsewhere."""
    parts = urlsplit(location)
    if parts.scheme == "":
        return Path(location)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def is_server(tracking_uri: str) -> bool:
    """Whether an MLflow server answers there, rather than a database."""
    return tracking_uri.startswith(_SERVERS)


def without_password(tracking_uri: str) -> str:
    """The address as it may be shown and written to files."""
    parts = urlsplit(tracking_uri)
    if parts.password is None:
        return tracking_uri
    netloc = parts.netloc.replace(f":{parts.password}@", ":***@", 1)
    return urlunsplit(parts._replace(netloc=netloc))
