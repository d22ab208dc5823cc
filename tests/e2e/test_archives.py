"""The real archives, where a machine has them: IMAGEMILL_DATASETS names their folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHIPPED = (
    "dvc.yaml",
    ".dvcignore",
    ".gitignore",
    "params.yaml",
    "labels",
    "recipes",
    "pipelines",
    "src",
)

pytestmark = pytest.mark.e2e


def archive(name: str) -> Path:
    """The archive, or a skip that says why."""
    folder = os.environ.get("IMAGEMILL_DATASETS")
    if not folder:
        pytest.skip("IMAGEMILL_DATASETS names no folder of archives")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{folder} holds no {name}")
    return path


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh copy of the project under git and DVC."""
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(REPOSITORY / ".dvc/config", tmp_path / ".dvc/config")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


def run(checkout: Path, *command: str) -> str:
    """What a command printed; it has to succeed."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    environment.pop("PREFECT_API_URL", None)
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def content(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document


def test_mnist_reaches_its_accuracy(checkout: Path) -> None:
    """The mnist recipe takes 70,000 PNG from the archive to a base of 99.2 % on test or better."""
    data = archive("mnist.tar.gz")
    run(checkout, "imagemill", "recipe", "mnist", "--data", str(data))
    run(checkout, "imagemill", "scan")
    run(checkout, "dvc", "repro")
    splits = content(checkout / "data/shards/manifest.json")["splits"]
    assert sum(split["num_samples"] for split in splits.values()) == 70_000
    assert splits["test"]["num_samples"] == 10_000
    assert content(checkout / "reports/evaluate/base.json")["top1"] >= 0.992


def test_photographs_become_shards(checkout: Path) -> None:
    """The folder recipe takes clothing's 3,781 photographs and its three given splits."""
    data = archive("clothing.tar")
    run(checkout, "imagemill", "recipe", "folder", "--data", str(data))
    run(checkout, "imagemill", "scan")
    run(checkout, "dvc", "repro", "shard")
    manifest = content(checkout / "data/shards/manifest.json")
    report = content(checkout / "data/audit/report.json")
    kept = {name: split["num_samples"] for name, split in manifest["splits"].items()}
    assert len(manifest["classes"]) == 10
    assert sum(kept.values()) + report["num_quarantined"] == 3_781
    assert all(
        kept[name] > 0.9 * given for name, given in (("train", 3068), ("val", 341), ("test", 372))
    )
