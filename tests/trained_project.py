"""A small project with a base that was really trained, for the rooms that come after training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from made_shards import make_shards

from imagemill.loading import open_split
from imagemill.models import build_model, save_weights
from imagemill.params import BASE, Params, parse_params, read_yaml
from imagemill.records import (
    MODELS,
    SHARD_MANIFEST,
    Architecture,
    ModelCard,
    ShardManifest,
    sha256_of_file,
)
from imagemill.runtimes import export_onnx
from imagemill.train.loop import fit

P = ParamSpec("P")
R = TypeVar("R")

SIZE = 12
SHIPPED = Path(__file__).resolve().parent.parent / "params.yaml"
CHAINS: dict[str, list[dict[str, Any]]] = {
    "pruned": [{"prune": {"ratio": 0.5}}, {"finetune": {"epochs": 1, "learning_rate": 0.01}}],
    "int8": [{"quantize": {"mode": "static", "calibration_images": 16}}],
}


class Recorder:
    """A tracker that remembers what a flow shows."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []
        self.tables: dict[str, Sequence[dict[str, Any]]] = {}
        self.images: dict[str, Path] = {}

    def log(self, line: str) -> None:
        self.lines.append(line)

    def step(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.steps.append(function.__name__.strip("_"))
        return function(*args, **kwargs)

    def progress(self, fraction: float, description: str) -> None:
        assert 0 <= fraction <= 1

    def table(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        self.tables[key] = rows

    def image(self, key: str, path: Path) -> None:
        assert path.is_file()
        self.images[key] = path

    def link(self, key: str, url: str, text: str) -> None:
        raise AssertionError("no link is expected")


def small_params(**variants: list[dict[str, Any]]) -> Params:
    """What we ship, with a net of a second's training and these variants."""
    document = read_yaml(SHIPPED)
    document["train"] |= {
        "model": "fast_mnist",
        "input_size": SIZE,
        "epochs": 6,
        "batch_size": 20,
        "precision": "float32",
    }
    document["augment"] |= {"copies": 0, "offline": [], "online": []}
    document["compress"] = {"runtime": "onnxruntime", "variants": variants or CHAINS}
    document["evaluate"] |= {
        "latency_rounds": 12,
        "throughput_rounds": 2,
        "throughput_batch": 8,
        "corruption_images": 10,
        "slices": [],
    }
    return parse_params(document, where="params.yaml")


def make_trained_project(root: Path) -> None:
    """Fill `root` with shards and models/base."""
    make_shards(root, size=SIZE)
    params, data = small_params(), ShardManifest.read(root / SHARD_MANIFEST)
    shape = (data.channels, SIZE, SIZE)
    architecture = Architecture(name=params.train.model, arguments={"width": 1.0})
    torch.manual_seed(0)
    model = build_model(
        architecture,
        input_shape=shape,
        num_classes=len(data.classes),
        mean=data.pixel_mean,
        std=data.pixel_std,
    )
    fit(
        model,
        open_split(root, "train", input_shape=shape, loading=params.loading),
        train=params.train,
        augment=params.augment,
        epochs=params.train.epochs,
        learning_rate=params.train.learning_rate,
        teacher=None,
        report=lambda progress: None,
    )
    save_base(root, model.to(memory_format=torch.contiguous_format), architecture, data)


def save_base(
    root: Path, model: torch.nn.Module, architecture: Architecture, data: ShardManifest
) -> None:
    """models/base as training leaves it."""
    folder, shape = root / MODELS / BASE, (data.channels, SIZE, SIZE)
    save_weights(folder / "model.safetensors", model)
    export_onnx(model.eval(), shape, folder / "model.onnx")
    files = {name: sha256_of_file(folder / name) for name in ("model.safetensors", "model.onnx")}
    ModelCard(
        variant=BASE,
        parent=None,
        steps=[],
        architecture=architecture,
        input_shape=shape,
        classes=data.classes,
        files=files,
        file="model.safetensors",
        sha256=files["model.safetensors"],
        data_digest=data.digest,
        index_digest=data.index_digest,
        runtime="eager",
        resize="antialias",
    ).write(folder / "model.json")
