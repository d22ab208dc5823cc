"""Objects of DVC's cache that no commit and no workspace needs."""

import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from imagemill.tracking import Held
from imagemill.tracking.lineage import digest_of_lock, dvc_lock_digest
from imagemill.verify.dvc_cache import cache_folder

_FILES = Path("files/md5")
_LISTING = ".dir"
_LOCK = "dvc.lock"

Object = tuple[Path, str, int]  # file, md5, bytes


def unneeded_objects(root: Path, aliases: Sequence[Held]) -> tuple[list[Object], str | None]:
    """What the cache holds beside what is needed, and a sentence where it was left alone.

    Args:
        root: The project's root.
        aliases: Versions whose dvc.lock is needed beside those of all of git's references.
    """
    folder = cache_folder(root)
    if folder is None:
        return [], None
    if not folder.resolve().is_relative_to(root.resolve()):
        return [], f"DVC cache: {folder} is outside the project, others may use it: left alone"
    revisions = _revisions(root)
    if revisions is None:
        return [], "DVC cache: git cannot list the branches here: left alone"
    commits, lost = _commits_of(root, aliases)
    if lost is not None:
        return [], (
            f"DVC cache: the dvc.lock that led to {lost.alias} (version {lost.version}) is in no "
            "commit here; commit it after each run, or fetch it: left alone"
        )
    needed = _needed(root, folder, {*revisions, *commits})
    objects = [
        (path, path.parent.name + path.name, path.stat().st_size)
        for path in sorted((folder / _FILES).glob("??/*"))
        if path.is_file() and path.parent.name + path.name not in needed
    ]
    return objects, None


def _commits_of(root: Path, aliases: Sequence[Held]) -> tuple[set[str], Held | None]:
    """Commits that have the dvc.lock of each alias; the first alias for which there is none."""
    here = dvc_lock_digest(root)
    missing: dict[str | None, Held] = {
        one.dvc_lock: one for one in aliases if one.dvc_lock not in (None, here)
    }
    known = {one.git_rev for one in aliases if one.git_rev and _is_known(root, one.git_rev)}
    history = ["log", "--all", "--reflog", "--format=%H", *sorted(known), "--", _LOCK]
    commits, seen = set(known), set()
    for commit in (_git(root, *history) or "").split():
        if not missing:
            break
        blob = _git(root, "rev-parse", "--verify", "--quiet", f"{commit}:./{_LOCK}")
        if blob is None or blob in seen:
            continue
        seen.add(blob)
        document = _parsed(_git(root, "cat-file", "blob", blob.strip()) or "")
        digest = digest_of_lock(document) if isinstance(document, dict) else None
        if missing.pop(digest, None) is not None:
            commits.add(commit)
    return commits, next(iter(missing.values()), None)


def _needed(root: Path, folder: Path, revisions: Iterable[str]) -> set[str]:
    """md5 of every output that is listed anywhere, with the files of listed folders."""
    needed: set[str] = set()
    for text in [*_in_workspace(root), *_in_commits(root, revisions)]:
        needed |= set(_digests(_parsed(text)))
    for digest in [one for one in needed if one.endswith(_LISTING)]:
        listing = folder / _FILES / digest[:2] / digest[2:]
        if listing.is_file():
            needed |= {str(entry["md5"]) for entry in json.loads(listing.read_bytes())}
    return needed


def _digests(document: Any) -> Iterator[str]:
    """Every md5 in a document, of dependencies too: keeping too much harms nobody."""
    if isinstance(document, dict):
        for key, value in document.items():
            if key == "md5" and isinstance(value, str):
                yield value
            else:
                yield from _digests(value)
    elif isinstance(document, list):
        for value in document:
            yield from _digests(value)


def _in_workspace(root: Path) -> Iterator[str]:
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.dvc")
    for name in {"dvc.lock", *(listed or "").splitlines()}:
        path = root / name
        if path.is_file():
            yield path.read_text(encoding="utf-8")


def _in_commits(root: Path, revisions: Iterable[str]) -> Iterator[str]:
    blobs: set[str] = set()
    for revision in revisions:
        for line in (_git(root, "ls-tree", "-r", revision) or "").splitlines():
            head, _, path = line.partition("\t")
            if path.endswith((".dvc", "dvc.lock")):
                blobs.add(head.split()[2])
    for blob in sorted(blobs):
        yield _git(root, "cat-file", "blob", blob) or ""


def _revisions(root: Path) -> list[str] | None:
    """Every branch, tag, stash and experiment, and what is checked out; None outside git."""
    listed = _git(root, "for-each-ref", "--format=%(objectname)")
    if listed is None:
        return None
    head = _git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return [*dict.fromkeys(listed.split()), *((head or "").split())]


def _is_known(root: Path, commit: str) -> bool:
    return _git(root, "cat-file", "-e", f"{commit}^{{commit}}") is not None


def _parsed(text: str) -> Any:
    """A file that is no YAML says nothing about outputs, whoever committed it."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        return None


def _git(root: Path, *arguments: str) -> str | None:
    """What git says; None if it refuses or is not installed."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        return None
    return answer.stdout
