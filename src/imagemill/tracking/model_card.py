"""The model card of a version: what it is for, what it saw, how good it is, where it ends."""

from collections.abc import Iterator, Mapping
from typing import Any

from imagemill.params import Params
from imagemill.records import Evaluation, ModelCard
from imagemill.table import readable_size

MOST_CHARACTERS = 5000  # what MLflow keeps of a description
_CLASSES_NAMED = 20
_WEAK_CLASSES = 5


def model_card(card: ModelCard, evaluation: Evaluation, params: Params) -> str:
    """Markdown for the description of a version.

    Args:
        card: Its model.json.
        evaluation: What was measured of it.
        params: Of them `report` (the title) and `ingest` (the source's name).

    Source:
        Mitchell et al. 2019, "Model Cards for Model Reporting": the sections; figures are those of
        the evaluation and none is added.
    """
    sections = [
        (f"{params.report.title}: {card.variant}", [evaluation.verdict_reason]),
        ("Intended use", _use(card)),
        ("Data", _data(card, params)),
        ("Metrics", _metrics(evaluation)),
        ("Limits", _limits(card, evaluation)),
        ("Energy and cost", _cost(evaluation)),
    ]
    text = "\n\n".join(f"## {title}\n" + "\n".join(lines) for title, lines in sections)
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 4] + "\n..."


def _use(card: ModelCard) -> list[str]:
    channels, height, width = card.input_shape
    names = ", ".join(card.classes[:_CLASSES_NAMED])
    more = len(card.classes) - _CLASSES_NAMED
    names += f" and {more} more" if more > 0 else ""
    colour = "grey" if channels == 1 else "colour"
    return [
        f"One of {len(card.classes)} classes for a {colour} image of {width}x{height} pixels: "
        f"{names}.",
        f"Architecture {card.architecture.name}, runs in {card.runtime}"
        + (f", made from {card.parent}." if card.parent else "."),
    ]


def _data(card: ModelCard, params: Params) -> list[str]:
    return [
        f"Source {params.ingest.source}, data digest `{card.data_digest[:16]}`. "
        "Train was learned from; val chose; test was only measured. "
        "`imagemill trace` follows any image to this version and back.",
    ]


def _metrics(evaluation: Evaluation) -> list[str]:
    low, high = evaluation.top1_ci95
    known = evaluation.model_dump()
    rows = [
        f"top-1 on test {evaluation.top1:.2%} (95 % interval {low:.2%} to {high:.2%}), "
        f"on val {evaluation.val_top1:.2%}",
        f"macro-F1 {evaluation.macro_f1:.4f}, calibration error {evaluation.ece:.4f}",
        *_said(known, "nll", "negative log-likelihood {:.4f}"),
        *_said(known, "relative_corruption_error", "error under corruptions {:.3f} x the base's"),
    ]
    paired = known.get("paired")
    if isinstance(paired, Mapping):
        rows += _said(paired, "flip_rate", f"against {paired.get('parent')}: flips {{:.2%}}")
        rows += _said(paired, "mcnemar_p", f"against {paired.get('parent')}: McNemar p {{:.3g}}")
    return [f"- {row}" for row in rows]


def _limits(card: ModelCard, evaluation: Evaluation) -> list[str]:
    weak = sorted(evaluation.per_class, key=lambda scores: float(scores["recall"]))
    named = ", ".join(f"{one['class']} {one['recall']:.1%}" for one in weak[:_WEAK_CLASSES])
    return [
        f"- weakest classes (recall on test): {named}",
        "- an image of no class gets one all the same",
        f"- images are brought to size by `{card.resize}`; other preparation gives other answers",
        f"- verdict: {evaluation.verdict}",
    ]


def _cost(evaluation: Evaluation) -> list[str]:
    energy = evaluation.energy_joules_per_1000
    machine = evaluation.machine
    return [
        "- energy: "
        + ("not measured on this machine" if energy is None else f"{energy:.2f} J per 1000 images"),
        f"- {readable_size(evaluation.size_bytes)}, {evaluation.num_parameters:,} parameters, "
        f"{evaluation.latency_ms_p50:.3f} ms at batch 1 (p95 {evaluation.latency_ms_p95:.3f}), "
        f"{evaluation.images_per_second:.0f} images a second",
        f"- on {machine.get('cpu', 'an unknown CPU')}, {machine.get('threads', '?')} threads",
    ]


def _said(known: Mapping[str, Any], name: str, text: str) -> Iterator[str]:
    """A line about a figure that may not have been measured."""
    if isinstance(known.get(name), (int, float)):
        yield text.format(known[name])
