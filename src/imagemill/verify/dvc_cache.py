"""The DVC cache: files named by their md5. It is DVC's; we read it, and ask DVC as a process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from imagemill.verify.findings import Fault, Slice, Watch, in_parallel

AREA = "cache"
_FILES = Path("files/md5")
_LOCK = "dvc.lock"
_LISTING = ".dir"


def faults_in_cache(
    root: Path, part: Slice, threads: ThreadPoolExecutor, watch: Watch, *, ahead: int
) -> Iterator[Fault]:
    """Cached files whose md5 is not their name; nothing where the project has no DVC."""
    folder = cache_folder(root)
    if folder is None:
        return
    for path, good in in_parallel(_checked, _entries(folder, part), threads, ahead=ahead):
        watch.count("cached files")
        if not good:
            known = Cache(root, folder).workspace_files().get(name_md5(path))
            of = f" (of {known})" if known else ""
            yield Fault(AREA, str(path), f"its md5 is not its name{of}")


def cache_folder(root: Path) -> Path | None:
    """Where DVC keeps files; None where there is no DVC here."""
    if not (root / ".dvc").is_dir():
        return None
    said = dvc(root, "cache", "dir")
    folder = Path(said.stdout.strip()) if said.returncode == 0 else root / ".dvc/cache"
    return folder if (folder / _FILES).is_dir() else None


def dvc(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run dvc in the project."""
    quiet = {"DVC_NO_ANALYTICS": "1", "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        check=False,
    )


class Cache:
    """What dvc.lock says about files: which bytes each should have, and where copies are."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root = root
        self._folder = folder
        self._files: dict[str, str] | None = None

    def path(self, md5: str) -> Path:
        """Where a file of this md5 is kept (it may not be there)."""
        return self._folder / _FILES / md5[:2] / md5[2:]

    def md5_of(self, path: str) -> str | None:
        """The md5 that a file of the workspace should have; None if DVC does not know it."""
        for md5, file in self.workspace_files().items():
            if file == path:
                return md5
        return None

    def workspace_files(self) -> dict[str, str]:
        """md5 -> path relative to the root, of every output in dvc.lock."""
        if self._files is None:
            self._files = {md5: path for path, md5 in self._outputs()}
        return self._files

    def _outputs(self) -> Iterator[tuple[str, str]]:
        for output in _locked(self._root / _LOCK):
            path, md5 = str(output.get("path", "")), str(output.get("md5", ""))
            yield path, md5
            if md5.endswith(_LISTING) and self.path(md5).is_file():
                for entry in _listing(self.path(md5)):
                    yield f"{path}/{entry['relpath']}", entry["md5"]

    def fetch(self) -> None:
        """Ask DVC for what the cache lacks; without a remote nothing comes."""
        dvc(self._root, "fetch")


def file_md5(path: Path) -> str:
    """Hex digest of a file's bytes, as DVC names them."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _entries(folder: Path, part: Slice) -> Iterator[Path]:
    for bucket in sorted((folder / _FILES).iterdir()):
        if bucket.is_dir() and len(bucket.name) == 2:
            paths = sorted(path for path in bucket.iterdir() if len(path.name) in (30, 34))
            mask = part.mask([name_md5(path) for path in paths])
            yield from (path for path, taken in zip(paths, mask, strict=True) if taken)


def name_md5(path: Path) -> str:
    """The md5 (with `.dir` where it is a listing) that a cached file's name says."""
    return path.parent.name + path.name


def _checked(path: Path) -> tuple[Path, bool]:
    try:
        return path, file_md5(path) == name_md5(path).removesuffix(_LISTING)
    except OSError:
        return path, False


def _locked(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")) or {}
    stages = document.get("stages", {})
    return [output for stage in stages.values() for output in stage.get("outs", [])]


def _listing(path: Path) -> list[dict[str, str]]:
    try:
        entries: list[dict[str, str]] = json.loads(path.read_bytes())
    except ValueError:
        return []
    return entries
