"""What it costs to add images, and to correct labels: `python -m benchmarks.growth`.

CIFAR-10's 60,000 JPEGs as a folder go through ingest, audit, split and shard; then 1,000 images are
added, then ten labels corrected, and the same stages run again. Stages are called in one process:
its start and imports are not counted, the decoding processes that it starts are.
"""

import csv
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

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
ADDED = 1000
CORRECTED = 10


def measure() -> list[Row]:
    """CPU seconds of a full run, of adding images and of correcting labels."""
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        root = Path(folder)
        shutil.copytree(cifar_files(), root / "raw", copy_function=os.link)
        params = _params()
        full = _timed(lambda: _run(root, params))
        before = _shards(root)
        _add_images(root / "raw" / "train")
        adding = _timed(lambda: _run(root, params))
        grown = _shards(root)
        holding = _correct_labels(root)
        correcting = _timed(lambda: _run(root, params))
        corrected = _shards(root)
    rewritten = {path for path in before if grown.get(path) != before[path]}
    changed = {path for path in grown if corrected.get(path) != grown[path]}
    return [
        Row("60,000 images, ingest to shard", round(full, 2), "CPU s"),
        Row(f"{ADDED:,} images added", round(adding, 2), "CPU s").against("full run", full),
        Row("old shards rewritten by that", len(rewritten), "shards"),
        Row(f"{CORRECTED} labels corrected", round(correcting, 2), "CPU s").against(
            "full run", full
        ),
        Row("shards that hold them", len(holding), "shards"),
        Row("shards rewritten that do not hold them", len(changed - holding), "shards"),
        Row("shards of all", len(grown), "shards"),
    ]


def _params() -> Params:
    document = read_yaml(PROJECT / "recipes" / "cifar10.yaml")
    document["ingest"]["source"] = "raw"
    # As many shards as make it visible which are rewritten.
    document["shard"]["max_images"] = 1000
    return parse_params(document, where="recipes/cifar10.yaml")


def _run(root: Path, params: Params) -> None:
    ingest(root, params.ingest, log=print)
    audit(root, params.audit, log=print)
    split(root, params.split, log=print)
    shard(root, params.shard, log=print)


def _timed(work: Callable[[], None]) -> float:
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
