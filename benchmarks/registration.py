"""What registering costs: `python -m benchmarks.registration`.

Ten variants of a ResNet-20 (1.1 MB of weights each, a hundred classes and a curve of 2,000 steps)
are brought into an MLflow store in a new SQLite file by `python -m pipelines.stage register`, as
DVC starts it: imports, the schema, runs, models, versions, aliases. Then the same once more, which
must add no version. Figures of the evaluations are made up: no model is trained or measured here.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mlflow
import torch

from benchmarks.results import Row, write_results
from imagemill.models import build_model, save_weights
from imagemill.params import parse_params, read_yaml
from imagemill.records import (
    MODELS,
    REPORTS,
    Architecture,
    Evaluation,
    ModelCard,
    Registration,
    sha256_of_file,
    write_json,
)
from pipelines.environment import quiet_environment

PROJECT = Path(__file__).resolve().parent.parent
ROUNDS, VARIANTS, CLASSES, STEPS = 3, 10, 100, 2000
FIRST_SECONDS, AGAIN_SECONDS = 60.0, 10.0
SHAPE = (3, 32, 32)
WEIGHTS = "model.safetensors"


def measure() -> list[Row]:
    """Both registrations, each in a process of its own; medians over fresh stores."""
    first, again, added = [], [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            _make_project(root)
            first.append(_register(root))
            before = _num_versions(root)
            again.append(_register(root))
            added.append(_num_versions(root) - before)
    return [
        Row(f"{VARIANTS} variants, new SQLite store", statistics.median(first), "s").against(
            "wanted", FIRST_SECONDS
        ),
        Row(f"{VARIANTS} variants again", statistics.median(again), "s").against(
            "wanted", AGAIN_SECONDS
        ),
        Row("versions added the second time", max(added), "versions"),
    ]


def _make_project(root: Path) -> None:
    document = read_yaml(PROJECT / "params.yaml")
    step = {"prune": {"ratio": 0.5}}
    names = [f"variant-{number}" for number in range(1, VARIANTS)]
    document["compress"]["variants"] = {name: [step] for name in names}
    write_json(root / "params.yaml", document)  # JSON is YAML
    for seed, variant in enumerate(parse_params(document, where="params.yaml").variants):
        _write_variant(root, variant, seed)
    lines = [
        {"step": step, "loss": 1 / step, "learning_rate": 0.1, "images_per_second": 1000.0}
        for step in range(1, STEPS + 1)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / MODELS / "base/metrics.jsonl").write_text(text)


def _write_variant(root: Path, variant: str, seed: int) -> None:
    torch.manual_seed(seed)
    folder, architecture = (
        root / MODELS / variant,
        Architecture(name="resnet20", arguments={"width": 1.0}),
    )
    model = build_model(
        architecture, input_shape=SHAPE, num_classes=CLASSES, mean=[0.5] * 3, std=[0.2] * 3
    )
    save_weights(folder / WEIGHTS, model)
    sha256 = sha256_of_file(folder / WEIGHTS)
    parent = None if variant == "base" else "base"
    classes = [f"class {number}" for number in range(CLASSES)]
    ModelCard(
        variant=variant,
        parent=parent,
        steps=[],
        architecture=architecture,
        input_shape=SHAPE,
        classes=classes,
        files={WEIGHTS: sha256},
        file=WEIGHTS,
        sha256=sha256,
        data_digest="d" * 64,
        index_digest="1" * 64,
        runtime="eager",
        resize="antialias",
    ).write(folder / "model.json")
    Evaluation(
        variant=variant,
        parent=parent,
        top1=0.9,
        top1_ci95=(0.89, 0.91),
        val_top1=0.9,
        val_top1_ci95=(0.89, 0.91),
        top5=0.99,
        macro_f1=0.9,
        ece=0.01,
        size_bytes=(folder / WEIGHTS).stat().st_size,
        num_parameters=270_000,
        macs=40_000_000,
        latency_ms_p50=1.0 + seed,
        latency_ms_p95=2.0 + seed,
        images_per_second=1000.0,
        speedup_over_base=1.0,
        speedup_same_runtime=1.0,
        energy_joules_per_1000=None,
        verdict="accepted" if parent else "base",
        verdict_reason="made up for a measurement",
        runtime="eager",
        sha256=sha256,
        per_class=[
            {"class": name, "num_images": 100, "recall": 0.9, "precision": 0.9, "f1": 0.9}
            for name in classes
        ],
        machine={"cpu": "none", "threads": 1},
    ).write(root / REPORTS / "evaluate" / f"{variant}.json")


def _register(root: Path) -> float:
    paths = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    environment = quiet_environment(os.environ, root) | {"PYTHONPATH": paths}
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "pipelines.stage", "register"],
        cwd=root,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def _num_versions(root: Path) -> int:
    address = f"sqlite:///{root / 'mlflow.db'}"
    name = Registration.read(root / "reports/register.json").registered_model
    client = mlflow.MlflowClient(address, address)
    return len(client.search_model_versions(f"name = '{name}'"))


if __name__ == "__main__":
    write_results("registration", measure())
