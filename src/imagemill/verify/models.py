"""Models and checkpoints against the digests beside them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from imagemill.records import MODELS, STATE, sha256_of_file
from imagemill.verify.findings import Fault, Slice, Watch, in_parallel


class _Recorded(NamedTuple):
    """A file whose digest stands in another one."""

    area: str
    path: Path
    sha256: str


def faults_in_models(
    root: Path, part: Slice, threads: ThreadPoolExecutor, watch: Watch, *, ahead: int
) -> Iterator[Fault]:
    """Files named in models/*/model.json, and checkpoints, that have other bytes than recorded."""
    recorded: list[_Recorded] = []
    for card in sorted((root / MODELS).glob("*/model.json")):
        files = _json(card).get("files")
        if not isinstance(files, dict):
            yield Fault("models", _shown(root, card), "it names no files")
            continue
        recorded += [_Recorded("models", card.parent / name, files[name]) for name in sorted(files)]
    for state in sorted((root / STATE).rglob("step-*/state.json")):
        tensors = state.with_suffix(".safetensors")
        recorded.append(_Recorded("checkpoints", tensors, str(_json(state).get("sha256"))))
    chosen = [each for each in recorded if part.takes(_shown(root, each.path))]
    for each, reason in in_parallel(_checked, chosen, threads, ahead=ahead):
        watch.count(f"files of {each.area}")
        if reason:
            yield Fault(each.area, _shown(root, each.path), reason)


def _checked(each: _Recorded) -> tuple[_Recorded, str | None]:
    try:
        same = sha256_of_file(each.path) == each.sha256
    except OSError as error:
        return each, f"it cannot be read: {error.strerror}"
    return each, None if same else "its sha256 is not that on record"


def _json(path: Path) -> dict[str, Any]:
    """A record as far as it can be read."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _shown(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
