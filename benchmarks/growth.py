"""What it costs to add images, and to correct labels: `python -m benchmarks.growth`.

CIFAR-10's 60,000 JPEGs as a folder go through ingest, audit, split and shard; then 1,000 images are
added, then ten labels corrected, and the same stages run again. All of it happens in one process
that has run the stages before: its start and imports are not counted. The start of the decoding
processes is counted, and told apart: it is what one takes that has nothing to decode.
"""

import csv
import io
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from PIL import Image, ImageOps

from benchmarks.photographs import FOLDER, cifar_files
from benchmarks.results import Row, write_results
from imagemill.audit import audit
from imagemill.ingest import ingest
from imagemill.params import Params, parse_params, read_yaml
from imagemill.parquet import read_batches
from imagemill.records import DATA, MANIFEST, REVIEW, SHARD_INDEX, SHARD_MANIFEST, ShardManifest
from imagemill.shard import shard
from imagemill.split import split

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS = 3
ADDED = 1000
CORRECTED = 10
STAGES = ("ingest", "audit", "split", "shard")


@dataclass(frozen=True)
class Spent:
    """CPU seconds of one run, its processes included."""

    stages: dict[str, float]
    starts: float  # of decoding processes, as a part of it

    @property
    def total(self) -> float:
        return sum(self.stages.values())


@dataclass(frozen=True)
class Round:
    """The three runs, and what they did to the shards."""

    full: Spent
    adding: Spent
    correcting: Spent
    num_shards: int
    rewritten: int  # old shards, by adding
    holding: int  # shards that hold the corrected images
    others: int  # shards rewritten that hold none of them


def measure() -> list[Row]:
    """CPU seconds of a full run, of adding images and of correcting labels."""
    params = _params()
    with _project(per_class=20) as root:
        _run(root, params)
    rounds = [_round(params) for _ in range(ROUNDS)]
    full, adding, correcting = (
        _median([getattr(one, name) for one in rounds]) for name in ("full", "adding", "correcting")
    )
    rows = [Row(f"60,000 images: {stage}", full.stages[stage], "CPU s") for stage in STAGES]
    rows += _beside(f"{ADDED:,} images added", adding, full)
    rows += _beside(f"{CORRECTED} labels corrected", correcting, full)
    last = rounds[-1]
    return [
        *rows,
        Row("shards of all", last.num_shards, "shards"),
        Row("old shards rewritten by adding", max(one.rewritten for one in rounds), "shards"),
        Row("shards that hold the corrected", last.holding, "shards"),
        Row("shards rewritten that do not", max(one.others for one in rounds), "shards"),
    ]


def _round(params: Params) -> Round:
    with _project() as root:
        full = _run(root, params)
        before = _shards(root)
        _add_images(root / "raw" / "train")
        adding = _run(root, params)
        grown = _shards(root)
        holding = _correct_labels(root)
        correcting = _run(root, params)
        corrected = _shards(root)
    changed = {path for path in grown if corrected.get(path) != grown[path]}
    return Round(
        full,
        adding,
        correcting,
        num_shards=len(grown),
        rewritten=sum(grown.get(path) != before[path] for path in before),
        holding=len(holding),
        others=len(changed - holding),
    )


def _median(runs: list[Spent]) -> Spent:
    """Of each stage, so that one slow second counts once."""
    stages = {name: statistics.median(run.stages[name] for run in runs) for name in STAGES}
    return Spent(stages, statistics.median(run.starts for run in runs))


def _beside(name: str, spent: Spent, full: Spent) -> list[Row]:
    """A run's stages, all of it, and all but the start of processes, beside the full run."""
    rows = [
        Row(f"{name}: {stage}", spent.stages[stage], "CPU s").against(
            "full run", full.stages[stage]
        )
        for stage in STAGES
    ]
    bare, full_bare = spent.total - spent.starts, full.total - full.starts
    return [
        *rows,
        Row(f"{name}: all", spent.total, "CPU s").against("full run", full.total),
        Row(f"{name}: all but process start", bare, "CPU s").against("full run", full_bare),
    ]


@contextmanager
def _project(per_class: int | None = None) -> Iterator[Path]:
    """A project whose source is a folder of all images, or of the first ones of each class."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        root = Path(folder)
        for source in sorted(cifar_files().glob("*/*")):
            target = root / "raw" / source.relative_to(cifar_files())
            target.mkdir(parents=True)
            for file in sorted(source.iterdir())[:per_class]:
                os.link(file, target / file.name)
        yield root


def _params() -> Params:
    document = read_yaml(PROJECT / "recipes" / "cifar10.yaml")
    document["ingest"]["source"] = "raw"
    # As many shards as make it visible which are rewritten.
    document["shard"]["max_images"] = 1000
    return parse_params(document, where="recipes/cifar10.yaml")


def _run(root: Path, params: Params) -> Spent:
    """All stages, one after the other."""
    stages = {"ingest": _timed(lambda: ingest(root, params.ingest, log=print))}
    with mock.patch("imagemill.audit.pool.subprocess.Popen", wraps=subprocess.Popen) as started:
        stages["audit"] = _timed(lambda: audit(root, params.audit, log=print))
    stages["split"] = _timed(lambda: split(root, params.split, log=print))
    stages["shard"] = _timed(lambda: shard(root, params.shard, log=print))
    starts = [_start(made.args[0], made.kwargs["env"]) for made in started.mock_calls]
    return Spent(stages, sum(starts, 0.0))


def _start(command: list[str], environment: dict[str, str]) -> float:
    """CPU seconds of a decoding process that is started to decode nothing."""
    return _timed(
        lambda: subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
    )


def _timed(work: Callable[[], object]) -> float:
    """CPU seconds of this process and those it started."""
    start = os.times()
    work()
    return sum(os.times()[:4]) - sum(start[:4])


def _shards(root: Path) -> dict[str, tuple[str, int]]:
    """Path -> digest and inode of every shard."""
    manifest = ShardManifest.read(root / SHARD_MANIFEST)
    return {
        entry.path: (entry.sha256, (root / DATA / entry.path).stat().st_ino)
        for entry in manifest.shards
    }


def _add_images(train: Path) -> None:
    """Mirrored copies of the first images of each class."""
    classes = sorted(path for path in train.iterdir() if path.is_dir())
    for folder in classes:
        for file in sorted(folder.iterdir())[: ADDED // len(classes)]:
            content = io.BytesIO()
            with Image.open(file) as image:
                ImageOps.mirror(image).save(content, "JPEG", quality=75)
            (folder / f"mirrored-{file.name}").write_bytes(content.getvalue())


def _correct_labels(root: Path) -> set[str]:
    """Decide that ten training images belong to the next class; the shards that hold them."""
    rows = [
        row
        for batch in read_batches(root / MANIFEST)
        for row in batch.to_pylist()
        if row["split"] == "train"
    ][:: 50_000 // CORRECTED][:CORRECTED]
    path = root / REVIEW
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        out = csv.writer(stream)
        out.writerow(["key", "sha256", "action", "label", "reviewer", "date", "note"])
        for row in rows:
            label = "bird" if row["target"] != "bird" else "cat"
            out.writerow([row["key"], row["sha256"], "relabel", label, "bench", "2026-11-22", ""])
    keys = {row["key"] for row in rows}
    return {
        row["shard"]
        for batch in read_batches(root / SHARD_INDEX, ["key", "shard"])
        for row in batch.to_pylist()
        if row["key"] in keys
    }


if __name__ == "__main__":
    write_results("growth", measure())
