"""Is the registry still there? Make it ready ahead of time."""

import sqlite3
from contextlib import closing
from pathlib import Path

from imagemill import records
from imagemill.params import Params, RegisterParams
from imagemill.records import Registration
from imagemill.tracking.address import local_path, sqlite_file


def prepare_store(root: Path, settings: RegisterParams) -> None:
    """Create the schema and the experiment, so that `register` need not wait for them.

    Args:
        root: The project's root.
        settings: The section `register`.

    Raises:
        ServiceError: the store cannot be used.
    """
    from imagemill.tracking.store import Store

    Store(root, settings)


def is_missing_versions(root: Path, params: Params) -> bool:
    """Whether reports/register.json names versions that the registry has lost.

    For an SQLite store this reads the database itself, in milliseconds: opening it through MLflow
    costs seconds, and this is asked before every run.

    Args:
        root: The project's root.
        params: Of them, the section `register`.

    Raises:
        IntegrityError: register.json is damaged.
        ServiceError: a store that is no SQLite file cannot be reached.
    """
    path = root / records.REGISTER
    if not path.is_file():
        return False
    registration = Registration.read(path)
    file = sqlite_file(root, params.register_.tracking_uri)
    if file is None:
        known = _in_store(root, params.register_)
    else:
        known = _in_sqlite(file, registration.registered_model)
    named = {version.version for version in registration.versions}
    return not named | {registration.champion_version} <= known


def _in_store(root: Path, settings: RegisterParams) -> set[int]:
    from imagemill.tracking.store import Store

    return {version.number for version in Store(root, settings).find_versions({})}


def _in_sqlite(file: Path, model_name: str) -> set[int]:
    """Versions whose files are there."""
    if not file.is_file():
        return set()
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT version, storage_location FROM model_versions "
                "WHERE name = ? AND current_stage != 'Deleted_Internal'",
                (model_name,),
            ).fetchall()
    except sqlite3.DatabaseError:
        return set()  # no database or no schema: nothing is in it
    return {int(version) for version, location in rows if _is_there(str(location))}


def _is_there(location: str) -> bool:
    folder = local_path(location)
    return folder is None or folder.is_dir()
