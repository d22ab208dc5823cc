"""What has to be right before anything is started: params, source, folders, disk."""

import shutil
from collections.abc import Callable
from pathlib import Path

from imagemill import records
from imagemill.errors import DiskError, UserError
from imagemill.params import Params, read_params
from imagemill.scan import disk_needed, scan
from imagemill.table import readable_size

_WRITTEN = (records.DATA, records.MODELS, records.REPORTS, records.STATE)


def prepare(root: Path, log: Callable[[str], None]) -> Params:
    """Check the params, notice a changed source, and see whether the disk has room.

    Raises:
        UserError: params.yaml, the source, a folder or the disk is not as it must be.
    """
    params = read_params(root)
    _check_git(root)
    for folder in _WRITTEN:
        _check_writable(root / folder)
    found = scan(root, params.ingest)
    log(
        f"source {found.source}: {found.num_files:,} files, {readable_size(found.size_bytes)}"
        f"{'' if found.changed else ', as they were'}"
    )
    _check_room(root, params, log)
    return params


def _check_room(root: Path, params: Params, log: Callable[[str], None]) -> None:
    needed, free = disk_needed(root, params), shutil.disk_usage(root).free
    log(f"disk: this run needs up to {readable_size(needed)}, {readable_size(free)} are free")
    if free < needed:
        raise DiskError(
            f"this run needs up to {readable_size(needed)} of disk and {root} has "
            f"{readable_size(free)}; free some, or lower augment.copies or loading.cache_bytes"
        )


def _check_git(root: Path) -> None:
    """DVC would say so only after the services have started."""
    if not any((folder / ".git").exists() for folder in (root, *root.parents)):
        raise UserError(
            f"{root} is in no git repository, which DVC needs to know what changed: run `git init`"
        )


def _check_writable(folder: Path) -> None:
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DiskError(f"{folder} cannot be written: {error.strerror}") from None
