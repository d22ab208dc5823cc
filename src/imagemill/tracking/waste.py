"""Runs and models of versions that were deleted: what nothing in the registry refers to."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from imagemill.params import Params
from imagemill.tracking.address import local_path
from imagemill.tracking.registration import CONTENT, VARIANT
from imagemill.tracking.versions import has_store, open_store

# A registration makes its run before its version: what is younger may be of one at work.
YOUNG_SECONDS = 600.0


@dataclass(frozen=True)
class Waste:
    """Something in the store that can go."""

    kind: str  # run or model
    id: str
    name: str
    folder: Path | None  # of its files; None: they are in a store elsewhere
    size_bytes: int


def find_waste(root: Path, params: Params, *, now: float) -> list[Waste]:
    """Runs and logged models of variants that no version has any more, whatever its aliases.

    Args:
        root: The project's root.
        params: Of them `register`.
        now: Seconds since the epoch: what is less than ten minutes old stays.

    Raises:
        ServiceError: the registry cannot be used.
    """
    if not has_store(root, params.register_):
        return []
    store = open_store(root, params.register_)
    needed_runs, needed_models = store.needed()
    before_ms = 1000 * (now - YOUNG_SECONDS)
    variants = store.stored_runs(VARIANT)
    gone = [one for one in variants if one.id not in needed_runs and one.began_ms < before_ms]
    left = {one.parent for one in variants} - {None}
    kept = {one.parent for one in variants if one not in gone}
    gone += [one for one in store.stored_runs(CONTENT) if one.id in left and one.id not in kept]
    gone_ids = {one.id for one in gone}
    models = [
        one
        for one in store.stored_models()
        if one.id not in needed_models and one.parent in gone_ids
    ]
    return [
        *(_waste("run", one.id, one.name, one.location) for one in gone),
        *(_waste("model", one.id, one.name, one.location) for one in models),
    ]


def drop_waste(root: Path, params: Params, waste: Sequence[Waste]) -> None:
    """Put them into MLflow's bin and remove their files.

    Files in a store elsewhere stay until `mlflow gc` is run there: only its owner can tell who
    else uses it.
    """
    store = open_store(root, params.register_)
    for one in waste:
        if one.kind == "run":
            store.delete_run(one.id)
        else:
            store.delete_model(one.id)
        if one.folder is not None:
            shutil.rmtree(one.folder, ignore_errors=True)


@dataclass(frozen=True)
class Held:
    """What a version with an alias was made from."""

    alias: str
    version: int
    dvc_lock: str | None  # digest, as `lineage.dvc_lock_digest`; None: there was no dvc.lock
    git_rev: str | None  # often the commit before the one that has that dvc.lock


def held_by_aliases(root: Path, params: Params) -> list[Held]:
    """Every alias, with the state of DVC and git its version was made from."""
    if not has_store(root, params.register_):
        return []
    aliases = open_store(root, params.register_).aliases()
    return [
        Held(alias, version.number, version.tags.get("dvc_lock"), version.tags.get("git_rev"))
        for alias, version in aliases.items()
    ]


def _waste(kind: str, ident: str, name: str, location: str) -> Waste:
    folder = local_path(location)
    files = folder.rglob("*") if folder is not None and folder.is_dir() else ()
    size = sum(file.stat().st_size for file in files if file.is_file())
    return Waste(kind, ident, name, folder, size)
