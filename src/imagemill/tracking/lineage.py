"""Where registered content comes from: the state of git and of DVC."""

import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.params import read_yaml

LOCK_FILE = "dvc.lock"

# Stages that read what is registered, or are the registration: their entries come later or change
# without it.
_DOWNSTREAM = ("explain", "register", "report")


@dataclass(frozen=True)
class Revision:
    """The state of the checkout."""

    commit: str
    is_dirty: bool  # tracked files differ from the commit


def git_revision(root: Path) -> Revision | None:
    """The commit that is checked out at `root`; None outside git or before the first commit."""
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if not commit:
        return None
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return Revision(commit, is_dirty=bool(changed))


def dvc_lock_digest(root: Path) -> str | None:
    """sha256 over the entries of dvc.lock that lead to the models and their evaluation.

    DVC writes a stage's entry when the stage has ended, so at registration those of the stages
    before it are there and its own is not: only those count, and registering again, or after
    `explain` or `report` ran, gives the same digest.

    Returns:
        The hex digest; None without a dvc.lock.
    """
    path = root / LOCK_FILE
    if not path.is_file():
        return None
    return digest_of_lock(read_yaml(path))


def digest_of_lock(lock: Mapping[str, Any]) -> str:
    """The same of a dvc.lock that was read already, such as that of a commit."""
    stages = lock.get("stages") or {}
    upstream = {name: entry for name, entry in stages.items() if name not in _DOWNSTREAM}
    return hashlib.sha256(json.dumps(upstream, sort_keys=True).encode()).hexdigest()


def _git(root: Path, *arguments: str) -> str:
    """What git says, or nothing if it refuses or is not installed."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        return ""
    return answer.stdout.strip()
