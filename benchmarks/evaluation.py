"""What evaluating costs: `python -m benchmarks.evaluation`.

The base resnet20 of the compression benchmark and ten variants of it are measured on val and the
10,000 test images of CIFAR-10 by `python -m pipelines.stage evaluate`, as DVC starts it, without
corruptions. Variants are the cheap ones: what they answer does not matter here. IMAGEMILL_DATASETS
says where cifar10.tar.gz is; the base is trained the first time.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.compression.bases import base_project
from benchmarks.results import Row, write_results
from imagemill.compress import compress
from imagemill.params import read_params, read_yaml

PROJECT = Path(__file__).resolve().parent.parent
WANTED_SECONDS = 180.0
_INT8: dict[str, Any] = {"quantize": {"mode": "static", "calibration_images": 128}}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    **{f"pruned{share}": [{"prune": {"ratio": share / 100}}] for share in (25, 50, 75)},
    **{f"pruned{share}-int8": [{"prune": {"ratio": share / 100}}, _INT8] for share in (25, 50, 75)},
    "int8": [_INT8],
    "dynamic": [{"quantize": {"mode": "dynamic"}}],
    "low-rank": [{"factorise": {"ratio": 0.5}}],
    "calibrated": [{"calibrate": {}}],
}


def measure() -> list[Row]:
    """Wall and CPU seconds of one evaluation, imports included."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _make_project(root)
        before, start = os.times(), time.perf_counter()
        environment = os.environ | {"PYTHONPATH": str(PROJECT / "src")}
        command = [sys.executable, "-m", "pipelines.stage", "evaluate"]
        subprocess.run(command, cwd=root, env=environment, check=True)
        seconds, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    case = f"{len(VARIANTS)} variants of resnet20 and the base"
    return [
        Row(f"{case}: evaluation", seconds, "s").against("wanted", WANTED_SECONDS),
        Row(f"{case}: evaluation, CPU", cpu, "CPU seconds"),
    ]


def _make_project(root: Path) -> None:
    kept = base_project("resnet20")
    for name in ("data", "pipelines"):
        (root / name).symlink_to(kept / name)
    shutil.copytree(kept / "models/base", root / "models/base")
    document = read_yaml(PROJECT / "params.yaml")
    document["loading"] = read_yaml(kept / "params.yaml")["loading"]
    document["train"] = read_yaml(kept / "params.yaml")["train"]
    document["compress"] |= {"runtime": "onnxruntime", "variants": VARIANTS}
    document["evaluate"]["corruption_images"] = 0
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(document, stream)
    params = read_params(root)
    for name in VARIANTS:
        compress(root, params, name, log=print, progress=lambda share, words: None)


if __name__ == "__main__":
    write_results("evaluation", measure())
