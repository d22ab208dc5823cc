"""Steps that several chains begin with are gone once: what they made is kept for the next chain.

A folder is known by everything that made it: the base, the data, the params of training, the steps,
the members of an ensemble and our own code.
"""

import json
import shutil
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

import imagemill
from imagemill.compress.bench import CARD, Bench
from imagemill.params import StepParams
from imagemill.records import (
    AUGMENTED_MANIFEST,
    SHARD_MANIFEST,
    STATE,
    ModelCard,
    publishing_folder,
    sha256_of_file,
)

KEPT = STATE / "compress-shared"
Steps = tuple[StepParams, ...]


class SharedSteps:
    """The beginnings of chains that more than one variant has."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._folder = bench.root / KEPT
        chains = bench.params.compress.variants.values()
        beginnings = [chain[:count] for chain in chains for count in range(1, len(chain) + 1)]
        self._shared = {steps for steps in beginnings if beginnings.count(steps) > 1}

    def find(self, steps: Steps) -> Path | None:
        """The folder these steps led to, if it is there and whole."""
        if steps not in self._shared:  # asked of every step: most chains share nothing
            return None
        folder = self._place(steps)
        if not (folder / CARD).is_file():
            return None
        card = ModelCard.read(folder / CARD)
        whole = all(
            (folder / name).is_file() and sha256_of_file(folder / name) == digest
            for name, digest in card.files.items()
        )
        return folder if whole else None

    def keep(self, steps: Steps, made: Path) -> None:
        """Keep a folder if another chain begins with these steps."""
        if steps in self._shared:
            with publishing_folder(self._place(steps)) as folder:
                shutil.copytree(made, folder, dirs_exist_ok=True)

    def forget_others(self) -> None:
        """Delete what no chain of params.yaml begins with any more."""
        wanted = {self._known_by(steps) for steps in self._shared}
        for folder in self._folder.glob("*"):
            if folder.name.rpartition("-")[0] not in wanted:
                shutil.rmtree(folder, ignore_errors=True)

    def _place(self, steps: Steps) -> Path:
        members = {
            name: sha256_of_file(folder / CARD)
            for name, (folder, _) in self._bench.members.items()
            if any(step.ensemble and name in step.ensemble.members for step in steps)
        }
        return self._folder / f"{self._known_by(steps)}-{_short(members)}"

    def _known_by(self, steps: Steps) -> str:
        """All that made a folder but the members, which only their own chain brings here."""
        told = [step.model_dump(mode="json", exclude_unset=True) for step in steps]
        return f"{_short(told)}-{_short(self._origin)}"

    @cached_property
    def _origin(self) -> list[object]:
        bench, params = self._bench, self._bench.params
        files = [bench.base / CARD, bench.root / SHARD_MANIFEST, bench.root / AUGMENTED_MANIFEST]
        return [
            _code_digest(),
            *(sha256_of_file(file) if file.is_file() else None for file in files),
            params.train.model_dump(mode="json"),
            params.augment.model_dump(mode="json"),
            params.loading.resize,
        ]


def _short(document: object) -> str:
    """Sixteen digits of the digest of a JSON document."""
    return sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _code_digest() -> str:
    package = Path(imagemill.__path__[0])
    files = sorted(package.rglob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
