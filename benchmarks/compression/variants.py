"""The chains that are measured, and their making from a kept base."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.compression.bases import PROJECT
from imagemill.compress import compress
from imagemill.compress.bench import Bench
from imagemill.compress.publish import publish
from imagemill.compress.quantize import quantize
from imagemill.params import OwnTrainParams, Params, StepParams, parse_params, read_yaml
from imagemill.records import ModelCard

Chain = list[dict[str, Any]]

_INT8: Chain = [{"quantize": {"mode": "static", "calibration_images": 512}}]
_GUIDE = {"temperature": 4, "alpha": 0.9}
# Half of the channels, but for the stream that the head reads, into which the last block writes.
# Whole images throughout; not compared with small ones first at equal cost. 44 epochs of the hard
# images (2 of 3) for the same time: 84.8 % of val instead of 85.3 %.
_PRUNED: Chain = [
    {"prune": {"ratio": 0.5, "keep": ["1.blocks.8.convolution2"]}},
    {
        "finetune": {
            "epochs": 32,
            "learning_rate": 0.2,
            "guide": _GUIDE,
            "train": {"resolutions": None},
        }
    },
]
# Few and wide layers: at one image a call of twenty thin ones costs more than what they compute. It
# learns from the labels, as recipe cifar10 does: guided by the base it took ten times as long.
_RECIPE = read_yaml(PROJECT / "recipes/cifar10.yaml")["train"]
_OWN = OwnTrainParams.model_fields
_FAST: Chain = [
    {
        "distil": {
            "student": "fast_cifar",
            "width": 0.5,
            "epochs": 80,
            "learning_rate": _RECIPE["learning_rate"],
            "temperature": 4,
            "alpha": 0.0,
            "train": {key: value for key, value in _RECIPE.items() if key in _OWN},
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
        "fast": _FAST,
        "fast-int8": [*_FAST, *_INT8],
        "bfloat16": [{"bfloat16": {}}],
        "student": [{"distil": {**_STUDENT, "alpha": 0.9}}],
        "student-labels": [{"distil": {**_STUDENT, "alpha": 0.0}}],
    },
    "resnet18": {"int8": _INT8},
}


def make_variants(base: str, root: Path, chosen: Sequence[str] = ()) -> dict[str, ModelCard]:
    """The variants of a base; one whose chain has not changed is kept (delete it to renew it).

    Args:
        base: In VARIANTS.
        root: Its project.
        chosen: Names of variants; none: all.
    """
    made: dict[str, ModelCard] = {}
    for name, chain in VARIANTS[base].items():
        if chosen and name not in chosen:
            continue
        params = _params(root, {name: chain})
        links = params.compress.variants[name]
        card = root / "models" / name / "model.json"
        if not card.is_file() or ModelCard.read(card).steps != _told(links):
            _make(root, params, name, made)
        made[name] = ModelCard.read(card)
    return made


def _make(root: Path, params: Params, name: str, made: Mapping[str, ModelCard]) -> None:
    """A chain that is another's with INT8 behind it goes on from the files of that one."""
    links = params.compress.variants[name]
    parents = [parent for parent, card in made.items() if card.steps == _told(links[:-1])]
    if not parents or links[-1].quantize is None:
        compress(root, params, name, log=_say, progress=lambda share, words: None)
        return
    bench = Bench(root, params, _say, lambda share, words: None)
    with TemporaryDirectory(dir=root / ".imagemill") as scratch:
        quantized = Path(scratch) / "quantized"
        quantized.mkdir()
        quantize(root / "models" / parents[0], quantized, links[-1].quantize, bench)
        publish(quantized, name, links, bench)


def _told(links: Sequence[StepParams]) -> list[dict[str, Any]]:
    """Steps as model.json tells them."""
    return [link.model_dump(mode="json", exclude_unset=True) for link in links]


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
