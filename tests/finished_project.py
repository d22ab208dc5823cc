"""A small project as the stages before `register` leave it, with real models that can be opened.

Three classes of grey 8x8 images: the brightest of three bands of rows says which.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imagemill import records
from imagemill.decoding import encode_png
from imagemill.params import Params, parse_params, read_yaml
from imagemill.records import (
    Architecture,
    Evaluation,
    ModelCard,
    RegisteredVersion,
    Registration,
    sha256_of_file,
    write_bytes,
    write_json,
)

REPOSITORY = Path(__file__).resolve().parent.parent
CLASSES = ["bottom", "middle", "top"]
SHAPE = (1, 8, 8)
DATA_DIGEST = "d" * 64
ROWS = {"top": slice(0, 3), "middle": slice(3, 5), "bottom": slice(5, 8)}


def make_project(root: Path, **register: str) -> Params:
    """Fill `root` with params.yaml, four models and their evaluations."""
    shutil.copy(REPOSITORY / "params.yaml", root / "params.yaml")
    params = project_params(root, **register)
    for rank, variant in enumerate(params.variants):
        write_model(root, variant, sharpness=4.0 + rank)
        write_evaluation(root, variant, **EVALUATIONS[variant])
    write_curves(root)
    return params


def project_params(root: Path, **register: str) -> Params:
    """The params of a project, with other values in its section `register`."""
    document = read_yaml(root / "params.yaml")
    document["register"] |= register
    return parse_params(document, where="params.yaml")


EVALUATIONS: dict[str, dict[str, Any]] = {
    "base": {"val_top1_ci95": [0.960, 0.990], "latency_ms_p50": 1.0, "verdict": "base"},
    "pruned": {"val_top1_ci95": [0.955, 0.985], "latency_ms_p50": 0.5, "verdict": "accepted"},
    "distilled": {"val_top1_ci95": [0.970, 0.995], "latency_ms_p50": 0.9, "verdict": "rejected"},
    "int8": {"val_top1_ci95": [0.960, 0.990], "latency_ms_p50": 0.25, "verdict": "accepted"},
}


def write_model(root: Path, variant: str, *, sharpness: float) -> ModelCard:
    """models/<variant>: one linear layer over the bands, as ONNX."""
    folder = root / records.MODELS / variant
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(_band_net(sharpness).SerializeToString())
    sha256 = sha256_of_file(folder / "model.onnx")
    card = ModelCard(
        variant=variant,
        parent=None if variant == "base" else "base",
        steps=[] if variant == "base" else [{"prune": {"ratio": 0.5}}],
        architecture=Architecture(name="seed_minimal", arguments={}),
        input_shape=SHAPE,
        classes=CLASSES,
        files={"model.onnx": sha256},
        file="model.onnx",
        sha256=sha256,
        data_digest=DATA_DIGEST,
        index_digest="1" * 64,
        runtime="onnxruntime",
        resize="antialias",
    )
    card.write(folder / "model.json")
    return card


def write_evaluation(root: Path, variant: str, **figures: Any) -> Evaluation:
    """reports/evaluate/<variant>.json, about the model that is there."""
    card = ModelCard.read(root / records.MODELS / variant / "model.json")
    measured: dict[str, Any] = {
        "top1": 0.975,
        "top1_ci95": [0.95, 0.99],
        "val_top1": 0.98,
        "top5": None,
        "macro_f1": 0.97,
        "ece": 0.012,
        "size_bytes": 249_000,
        "num_parameters": 62_000,
        "macs": 1_200_000,
        "latency_ms_p95": 1.4,
        "images_per_second": 9000.0,
        "speedup_over_base": 1.0,
        "speedup_same_runtime": None,
        "energy_joules_per_1000": None,
        "verdict_reason": f"what was found about {variant}",
        "runtime": card.runtime,
        "per_class": [
            {"class": name, "num_images": 40, "recall": 0.9, "precision": 0.9, "f1": 0.9}
            for name in CLASSES
        ],
        "machine": {"cpu": "one", "threads": 1},
    }
    document = {"variant": variant, "parent": card.parent, "sha256": card.sha256}
    evaluation = Evaluation.model_validate(document | measured | figures)
    evaluation.write(root / records.REPORTS / "evaluate" / f"{variant}.json")
    return evaluation


def write_curves(root: Path) -> None:
    """models/base/metrics.jsonl: three steps, of which the last ends an epoch."""
    lines: list[dict[str, float | None]] = [
        {"step": 10, "epoch": 0, "loss": 2.0, "learning_rate": 0.05, "val_top1": None},
        {"step": 20, "epoch": 0, "loss": 1.0, "learning_rate": 0.1, "val_top1": None},
        {"step": 30, "epoch": 1, "loss": 0.5, "learning_rate": 0.0, "val_top1": 0.98},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (root / records.MODELS / "base" / "metrics.jsonl").write_text(text)


def write_all_reports(root: Path, params: Params) -> None:
    """What `report` reads beside models and evaluations: data, training, pictures, registration."""
    classes = dict.fromkeys(CLASSES, 100)
    write_json(root / "data/ingest/summary.json", INGESTED | {"classes": classes})
    write_json(root / "data/audit/report.json", AUDITED | {"classes": classes})
    write_json(root / "data/shards/manifest.json", SHARDED)
    write_json(root / "models/base/metrics.json", TRAINED)
    write_json(root / "reports/explain/explain.json", EXPLAINED)
    pictures = (
        "data/audit/contact_sheet",
        "reports/evaluate/comparison",
        "reports/explain/saliency",
    )
    for name in pictures:
        write_bytes(root / f"{name}.png", encode_png(np.zeros((40, 60, 1), dtype=np.uint8)))
    for variant in params.variants:
        picture = root / f"reports/evaluate/confusion-{variant}.png"
        write_bytes(picture, encode_png(np.zeros((30, 30, 1), dtype=np.uint8)))
    write_registration(root, params)


def write_registration(root: Path, params: Params, *, champion: str = "int8") -> None:
    """reports/register.json as if `register` had run."""
    versions = [
        RegisteredVersion(
            variant=variant,
            version=number,
            run_id=f"{number}" * 32,
            aliases=["champion"] if variant == champion else [],
            sha256=ModelCard.read(root / records.MODELS / variant / "model.json").sha256,
            git_rev="c" * 40,
        )
        for number, variant in enumerate(params.variants, start=1)
    ]
    Registration(
        registered_model=params.register_.model_name,
        tracking_uri=params.register_.tracking_uri,
        compare_url="#/compare-model-versions?name=x",
        champion=champion,
        champion_version=4,
        versions=versions,
    ).write(root / records.REGISTER)


INGESTED: dict[str, Any] = {
    "source": "photos",
    "kind": "folder",
    "num_images": 302,
    "num_unlabelled": 0,
    "size_bytes": 60_000,
    "given_splits": {},
}
AUDITED: dict[str, Any] = {
    "num_images": 302,
    "num_kept": 300,
    "num_quarantined": 2,
    "quarantine_budget": 0.02,
    "quarantined_by_check": {"decode": 1, "duplicate": 1},
    "first_quarantined": [
        {"key": "top/a", "uri": "photos/top/a.png", "check": "decode", "reason": "truncated"},
        {"key": "top/b", "uri": "photos/top/b.png", "check": "duplicate", "reason": "of top/c"},
    ],
    "num_unlabelled": 0,
    "given_splits": {},
    "width": {"min": 8, "median": 8, "max": 12},
    "height": {"min": 8, "median": 8, "max": 8},
    "modes": {"L": 300},
    "formats": {"PNG": 300},
    "channel_mean_rgb": [0.3, 0.3, 0.3],
    "channel_std_rgb": [0.4, 0.4, 0.4],
    "checks": {"blur": {"action": "warn", "min_sharpness": 0.06}},
    "warned_by_check": {"blur": 3},
    "whole": [{"check": "class_balance", "action": "warn", "told": "top has 9 times as many"}],
    "orientations": {"1": 300},
    "forms": {"grey": 300, "alpha": 0},
    "identifying": {"gps": 2, "serial_number": 0},
    "near_groups": {"num_groups": 1, "num_images": 2, "largest": 2},
    "diversity": {"spread": 1.2, "effective_dimensions": 4.5, "least_by_class": {"top": 1.1}},
}
SHARDED: dict[str, Any] = {
    "schema_version": 1,
    "digest": DATA_DIGEST,
    "index_digest": "1" * 64,
    "classes": CLASSES,
    "channels": 1,
    "pixel_mean": [0.3],
    "pixel_std": [0.4],
    "splits": {
        name: {"num_samples": number, "num_shards": 1, "size_bytes": 1000}
        for name, number in {"test": 60, "train": 200, "val": 40}.items()
    },
    "shards": [],
}
TRAINED: dict[str, Any] = {
    "epochs": 2,
    "num_images": 200,
    "steps": 30,
    "training_cpu_seconds": 3.78,
    "machine": "cpu, float32",
    "val_top1": 0.98,
    "ledger": [{"consumed": 200, "missing": 0, "duplicate": 0, "digest": "0"}] * 2,
}
EXPLAINED: dict[str, Any] = {
    "variant": "base",
    "sha256": "0" * 64,
    "runtime": "eager",
    "gradcam_layers": ["convolution"],
    "features_layers": ["convolution"],
    "integration_gap": 0.01,
    "judged_images": 40,
    "faithfulness": [
        {
            "method": "Occlusion",
            "deletion": 0.25,
            "insertion": 0.875,
            "deletion_gain": 0.1,
            "deletion_gain_error": 0.02,
            "insertion_gain": 0.2,
            "insertion_gain_error": 0.03,
            "beats_random": True,
            "occlusion_correlation": None,
        },
        {
            "method": "Random",
            "deletion": 0.35,
            "insertion": 0.675,
            "deletion_gain": None,
            "deletion_gain_error": None,
            "insertion_gain": None,
            "insertion_gain_error": None,
            "beats_random": None,
            "occlusion_correlation": None,
        },
    ],
    "mistakes": [],
    "on_embeddings": [
        {
            "name": "logistic regression",
            "kind": "surrogate",
            "fidelity": 0.9625,
            "accuracy": 0.95,
            "net_accuracy": 0.97,
            "train_images": 200,
            "test_images": 60,
        }
    ],
    "skipped": [{"what": "neighbours of mistakes", "why": "there is no mistake"}],
    "pictures": [
        {"file": "saliency.png", "caption": "Evidence for the predicted class"},
        {"file": "features-01.png", "caption": "a picture that was deleted"},
    ],
    "images": [],
}


def band_image(name: str) -> NDArray[np.uint8]:
    """An image of a class, uint8 [8, 8]."""
    image = np.zeros(SHAPE[1:], dtype=np.uint8)
    image[ROWS[name]] = 255
    return image


def _band_net(sharpness: float) -> onnx.ModelProto:
    weights = np.zeros((3, *SHAPE[1:]), dtype=np.float32)
    for index, name in enumerate(CLASSES):
        rows = weights[index, ROWS[name]]
        rows += sharpness / rows.size
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bands",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(np.ascontiguousarray(weights.reshape(3, -1).T), "weights")],
    )
    opset = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opset, ir_version=10)
