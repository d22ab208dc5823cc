"""`imagemill verify`: look at everything, say what is wrong, and mend it if asked to."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imagemill.verify.dvc_cache import faults_in_cache
from imagemill.verify.findings import ALL, Fault, Slice, Watch
from imagemill.verify.models import faults_in_models
from imagemill.verify.raw_files import faults_in_raw_files
from imagemill.verify.repair import Repairer
from imagemill.verify.shards import faults_in_shards

_CHECKS = (faults_in_raw_files, faults_in_shards, faults_in_models, faults_in_cache)
_AHEAD_PER_THREAD = 2


@dataclass
class Findings:
    """What a verification came to."""

    part: Slice
    checked: dict[str, int] = field(default_factory=dict)  # what -> how many
    faults: list[Fault] = field(default_factory=list)  # that are still there
    repaired: list[Fault] = field(default_factory=list)

    def __str__(self) -> str:
        checked = ", ".join(f"{count:,} {what}" for what, count in self.checked.items())
        lines = [
            *(f"mended: {fault}" for fault in self.repaired),
            *(f"fault: {fault}" for fault in self.faults),
            f"verify: checked {checked or 'nothing: there is nothing here'}; "
            f"{len(self.faults)} faults, {len(self.repaired)} mended",
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The same as a document."""
        return {
            "slice": f"{self.part.number}/{self.part.of}",
            "checked": self.checked,
            "faults": [asdict(fault) for fault in self.faults],
            "repaired": [asdict(fault) for fault in self.repaired],
        }


def verify(
    root: Path, *, part: Slice = ALL, repair: bool = False, say: Callable[[str], None]
) -> Findings:
    """Check raw files, shards, indexes, copies, models, checkpoints and the DVC cache.

    Args:
        root: The project's root.
        part: Which part of everything.
        repair: Mend what can be mended from another place that holds the same bytes. Without it
            nothing is written.
        say: Takes a line now and then while it takes long.
    """
    watch = Watch(say)
    num_threads = os.cpu_count() or 1
    faults: list[Fault] = []
    with ThreadPoolExecutor(num_threads) as threads:
        for check in _CHECKS:
            ahead = _AHEAD_PER_THREAD * num_threads
            faults += check(root, part, threads, watch, ahead=ahead)
    findings = Findings(part, dict(watch.checked), faults)
    if repair and faults:
        findings.repaired = Repairer(root, say).repair(faults)
        mended = set(findings.repaired)
        findings.faults = [fault for fault in faults if fault not in mended]
    return findings
