"""The chains that are measured, and their making from a kept base."""

import sys
from pathlib import Path
from typing import Any

from imagemill.compress import compress
from imagemill.params import Params, parse_params, read_yaml
from imagemill.records import ModelCard

Chain = list[dict[str, Any]]

_INT8: Chain = [{"quantize": {"mode": "static", "calibration_images": 512}}]
_PRUNED: Chain = [{"prune": {"ratio": 0.5}}, {"finetune": {"epochs": 3, "learning_rate": 0.05}}]
_GUIDED: Chain = [
    {"prune": {"ratio": 0.5}},
    {
        "finetune": {
            "epochs": 4,
            "learning_rate": 0.05,
            "guide": {"temperature": 4, "alpha": 0.9},
        }
    },
]
_STUDENT = {
    "student": "resnet20",
    "width": 0.3125,
    "epochs": 5,
    "learning_rate": 0.2,
    "temperature": 4,
}
VARIANTS: dict[str, dict[str, Chain]] = {
    "resnet20": {
        "int8": _INT8,
        "pruned50": _PRUNED,
        "pruned50-int8": [*_PRUNED, *_INT8],
        "guided50": _GUIDED,
        "guided50-int8": [*_GUIDED, *_INT8],
        "bfloat16": [{"bfloat16": {}}],
        "student": [{"distil": {**_STUDENT, "alpha": 0.9}}],
        "student-labels": [{"distil": {**_STUDENT, "alpha": 0.0}}],
    },
    "resnet18": {"int8": _INT8},
}


def make_variants(base: str, root: Path) -> dict[str, ModelCard]:
    """The variants of a base; one whose chain has not changed is kept (delete it to renew it)."""
    made: dict[str, ModelCard] = {}
    for name, chain in VARIANTS[base].items():
        params = _params(root, {name: chain})
        card = root / "models" / name / "model.json"
        wanted = [
            step.model_dump(mode="json", exclude_unset=True)
            for step in params.compress.variants[name]
        ]
        if not card.is_file() or ModelCard.read(card).steps != wanted:
            compress(root, params, name, log=_say, progress=lambda share, words: None)
        made[name] = ModelCard.read(card)
    return made


def _params(root: Path, variants: dict[str, Chain]) -> Params:
    document = read_yaml(root / "params.yaml")
    document["compress"] = {
        "runtime": "auto",
        "exports": ["pt2", "openvino"],
        "variants": variants,
    }
    return parse_params(document, where="benchmarks/compression")


def _say(line: str) -> None:
    sys.stdout.write(f"  {line}\n")
    sys.stdout.flush()
