"""The nets that are compressed: trained once, kept under .imagemill/, found again by their params.

`python -m benchmarks.compression.bases resnet20` trains one alone.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from benchmarks.clones import take_compiled_decoder
from imagemill.params import Params, read_params, read_yaml

PROJECT = Path(__file__).resolve().parents[2]
KEPT = PROJECT / ".imagemill" / "compression"
ARCHIVE = "cifar10.tar.gz"

# Plain training, so that nothing but compression is looked at: no smoothing, no test-time views.
_TRAIN = {
    "batch_size": 128,
    "label_smoothing": 0.0,
    "optimizer": "nesterov",
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "warmup": 0.2,
    # Smaller images first: twice the epochs in the same time.
    "resolutions": [
        {"start": 0.0, "size": 20},
        {"start": 0.35, "size": 24},
        {"start": 0.7, "size": 32},
    ],
}
BASES: dict[str, dict[str, Any]] = {
    "resnet20": {**_TRAIN, "model": "resnet20", "epochs": 18, "learning_rate": 0.2},
    "resnet18": {  # forty minutes on two cores
        **_TRAIN,
        "model": "resnet18_small",
        "epochs": 7,
        "learning_rate": 0.1,
        "strategy": "ddp",
        "processes": 2,
    },
}
_ONLINE = [
    {"operation": "flip_horizontal", "probability": 0.5},
    {"operation": "translate", "probability": 1.0, "range": [-0.125, 0.125]},  # 4 pixels
]


def base_project(name: str) -> Path:
    """The root of a project whose models/base is a net of `BASES`; trains it the first time.

    Raises:
        KeyError: IMAGEMILL_DATASETS does not say where the archive is.
    """
    document = _document(BASES[name])
    key = sha256(repr((document["train"], document["augment"])).encode()).hexdigest()[:12]
    root = KEPT / f"{name}-{key}"
    if not (root / "models/base/model.json").is_file():
        _train(root, document)
    _write_params(root, document)  # other sections may have got keys since
    return root


def params_of(root: Path) -> Params:
    """What the base of a project was trained with."""
    return read_params(root)


def _document(train: Mapping[str, Any]) -> dict[str, Any]:
    document = read_yaml(PROJECT / "recipes/cifar10.yaml")
    document["ingest"]["source"] = str(Path(os.environ["IMAGEMILL_DATASETS"]) / ARCHIVE)
    document["train"] |= train
    del document["train"]["selection"]  # as plain as the rest of _TRAIN
    document["augment"]["online"] = _ONLINE
    document["evaluate"]["views"] = ["identity"]
    document["compress"]["variants"] = {
        "int8": [{"quantize": {"mode": "static", "calibration_images": 256}}]
    }
    return document


def _train(root: Path, document: dict[str, Any]) -> None:
    """Run the stages up to `train` in a clone; what was begun is gone on with."""
    if not (root / ".git").exists():
        shutil.rmtree(root, ignore_errors=True)
        subprocess.run(["git", "clone", "--quiet", str(PROJECT), str(root)], check=True)
    take_compiled_decoder(PROJECT, root)
    _write_params(root, document)
    # The stages import the clone's code, not the environment's editable install.
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    for command in (["imagemill", "scan"], ["dvc", "repro", "train"]):
        subprocess.run(command, cwd=root, env=environment, check=True)


def _write_params(root: Path, document: Mapping[str, Any]) -> None:
    with (root / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML().dump(document, stream)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or BASES:
        sys.stdout.write(f"{wanted}: {base_project(wanted)}\n")
