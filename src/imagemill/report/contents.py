"""What stands on the page: read from the files of all stages, nothing measured again."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from imagemill import records
from imagemill.audit.report import AuditReport
from imagemill.errors import IntegrityError
from imagemill.ingest import SUMMARY, IngestSummary
from imagemill.params import BASE, Params
from imagemill.records import (
    Evaluation,
    Explanation,
    ModelCard,
    RegisteredVersion,
    Registration,
    ShardManifest,
    SplitSize,
)
from imagemill.report.charts import Line, line_chart
from imagemill.report.images import Embedded, embed

EVALUATE = records.REPORTS / "evaluate"
EXPLAIN = records.REPORTS / "explain"

# With more classes only the worst of them are listed.
MOST_CLASSES = 30

# Title, factor of the axis, and what metrics.jsonl calls the lines.
_CHARTS: tuple[tuple[str, float, dict[str, str]], ...] = (
    ("Loss", 1, {"loss": "train"}),
    ("Top-1, %", 100, {"accuracy": "train", "val_top1": "val"}),
    ("Learning rate", 1, {"learning_rate": "learning rate"}),
    ("Images per second", 1, {"images_per_second": "images/s"}),
)


@dataclass(frozen=True)
class Variant:
    """A row of the table of variants."""

    evaluation: Evaluation
    card: ModelCard
    version: RegisteredVersion

    @property
    def is_champion(self) -> bool:
        return "champion" in self.version.aliases


@dataclass(frozen=True)
class ClassRow:
    """Recall of one class under each variant."""

    name: str
    num_images: int
    recalls: list[float]


@dataclass(frozen=True)
class Contents:
    """Everything the template asks for."""

    title: str
    ingest: IngestSummary
    audit: AuditReport
    manifest: ShardManifest
    registration: Registration
    variants: list[Variant]
    classes: list[ClassRow]
    num_classes: int
    training: dict[str, Any]  # models/base/metrics.json
    charts: list[tuple[str, Markup]]
    comparison: list[Embedded]
    robustness: list[Embedded]
    confusions: list[Embedded]
    mistakes: list[Embedded]
    audit_pictures: list[Embedded]
    explained: list[Embedded]
    feature_maps: list[Embedded]
    doubtful_labels: int | None  # None: nobody looked for them

    @property
    def base(self) -> Variant:
        return self.variants[0]

    @property
    def champion(self) -> Variant | None:
        """None while a version of earlier content is champion."""
        return next((variant for variant in self.variants if variant.is_champion), None)

    @property
    def splits(self) -> list[tuple[str, SplitSize]]:
        """The splits that hold images, in the order of a run."""
        sizes = self.manifest.splits
        return [(name, sizes[name]) for name in records.SPLIT_NAMES if name in sizes]

    @property
    def evaluations(self) -> list[Evaluation]:
        """Of all variants, the base first."""
        return [variant.evaluation for variant in self.variants]

    @property
    def slices(self) -> list[tuple[str, str, int, list[float]]]:
        """Column, slice, images and the top-1 of each variant, worst of the base first."""
        tables = [evaluation.slices or {} for evaluation in self.evaluations]
        rows = []
        for column, parts in tables[0].items():
            for part in parts:
                scores = [_top1_of(table[column], part["name"]) for table in tables]
                rows.append((column, str(part["name"]), int(part["num_images"]), scores))
        return rows

    @property
    def has_energy(self) -> bool:
        return any(v.evaluation.energy_joules_per_1000 is not None for v in self.variants)


def gather(root: Path, params: Params) -> Contents:
    """Read what the stages wrote.

    Args:
        root: The project's root.
        params: Of them the variants, the section `report` and `label_review.enabled`.

    Raises:
        IntegrityError: a file is missing or damaged.
    """
    manifest = ShardManifest.read(root / records.SHARD_MANIFEST)
    registration = Registration.read(root / records.REGISTER)
    variants = [_variant(root, name, registration) for name in params.variants]
    audit = AuditReport.read(root / records.AUDIT / "report.json")
    explained = _explain_pictures(root)
    return Contents(
        title=params.report.title,
        ingest=IngestSummary.read(root / SUMMARY),
        audit=audit,
        manifest=manifest,
        registration=registration,
        variants=variants,
        classes=class_rows([variant.evaluation for variant in variants]),
        num_classes=len(manifest.classes),
        training=json.loads((root / records.MODELS / BASE / "metrics.json").read_bytes()),
        charts=training_charts(root / records.MODELS / BASE / "metrics.jsonl"),
        comparison=_pictures(
            root / EVALUATE,
            {
                "comparison.png": "Accuracy against latency and size, with 95 % intervals",
                "reliability.png": "Confidence against accuracy: the diagonal is perfect",
                "selective.png": "Accuracy if only the surest images are answered",
            },
        ),
        robustness=_pictures(
            root / EVALUATE, {"robustness.png": "Top-1 on val under the 15 common corruptions"}
        ),
        confusions=_pictures(
            root / EVALUATE, {f"confusion-{name}.png": name for name in params.variants}
        ),
        mistakes=_pictures(
            root / EVALUATE, {f"mistakes-{name}.png": name for name in params.variants}
        ),
        audit_pictures=_pictures(
            root / records.AUDIT,
            {
                "contact_sheet.png": "Some images of each class",
                "class_balance.png": "Images a class",
            },
        ),
        explained=[picture for name, picture in explained if not name.startswith("features")],
        feature_maps=[picture for name, picture in explained if name.startswith("features")],
        doubtful_labels=_doubtful_labels(root) if params.label_review.enabled else None,
    )


def class_rows(evaluations: Sequence[Evaluation]) -> list[ClassRow]:
    """Recall of each class under each variant; of many classes the worst ones of the first variant.

    Args:
        evaluations: Of the same classes in the same order.
    """
    rows = [
        ClassRow(
            name=str(scores[0]["class"]),
            num_images=int(scores[0]["num_images"]),
            recalls=[float(score["recall"]) for score in scores],
        )
        for scores in zip(*(entry.per_class for entry in evaluations), strict=True)
    ]
    if len(rows) <= MOST_CLASSES:
        return rows
    return sorted(rows, key=lambda row: row.recalls[0])[:MOST_CLASSES]


def training_charts(path: Path) -> list[tuple[str, Markup]]:
    """Titles and charts of a metrics.jsonl; none without one, no chart without a value."""
    if not path.is_file():
        return []
    lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    charts = []
    for title, factor, names in _CHARTS:
        curves = [Line(label, _values(lines, name, factor)) for name, label in names.items()]
        drawn = [curve for curve in curves if curve.points]
        if drawn:
            charts.append((title, line_chart(title, drawn)))
    return charts


def _values(lines: Sequence[dict[str, Any]], name: str, factor: float) -> list[tuple[float, float]]:
    return [(line["step"], factor * line[name]) for line in lines if line.get(name) is not None]


def _variant(root: Path, name: str, registration: Registration) -> Variant:
    (version,) = [entry for entry in registration.versions if entry.variant == name]
    return Variant(
        evaluation=Evaluation.read(root / EVALUATE / f"{name}.json"),
        card=ModelCard.read(root / records.MODELS / name / "model.json"),
        version=version,
    )


def _top1_of(parts: Sequence[dict[str, Any]], name: str) -> float:
    return next(float(part["top1"]) for part in parts if part["name"] == name)


def _explain_pictures(root: Path) -> list[tuple[str, Embedded]]:
    explanation = Explanation.read(root / EXPLAIN / "explain.json")
    found = [(entry.file, entry.caption) for entry in explanation.pictures]
    embedded = [(name, embed(root / EXPLAIN / name, caption)) for name, caption in found]
    return [(name, picture) for name, picture in embedded if picture is not None]


def _pictures(folder: Path, captions: dict[str, str]) -> list[Embedded]:
    found = [embed(folder / name, caption) for name, caption in captions.items()]
    return [picture for picture in found if picture is not None]


def _doubtful_labels(root: Path) -> int:
    path = root / records.LABEL_REVIEW
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return sum(1 for _ in csv.DictReader(stream))
    except FileNotFoundError:
        raise IntegrityError(f"{path} does not exist; `dvc repro` makes it") from None
