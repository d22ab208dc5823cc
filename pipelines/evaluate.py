"""The flow `evaluate`: base and variants side by side."""

from pathlib import Path
from typing import Any

from imagemill.evaluate import EVALUATE
from imagemill.evaluate import evaluate as compare_variants
from imagemill.params import Params
from imagemill.records import Evaluation
from pipelines.tracker import Tracker

_PICTURES = ("comparison", "robustness", "selective")


def evaluate(root: Path, params: Params, tracker: Tracker) -> None:
    """Measure all variants, and show the table and the pictures that compare them."""
    evaluations = compare_variants(root, params, log=tracker.log, step=tracker.step)
    tracker.table("variants", [_row(evaluation) for evaluation in evaluations])
    for name in _PICTURES:
        if (root / EVALUATE / f"{name}.png").is_file():
            tracker.image(name, root / EVALUATE / f"{name}.png")


def _row(evaluation: Evaluation) -> dict[str, Any]:
    low, high = evaluation.top1_ci95
    energy = evaluation.energy_joules_per_1000
    robust = evaluation.relative_corruption_error
    return {
        "variant": evaluation.variant,
        "test top-1": f"{evaluation.top1:.2%} ({low:.2%} to {high:.2%})",
        "val top-1": f"{evaluation.val_top1:.2%}",
        "mistakes under corruptions": "unknown" if robust is None else f"{robust:.2f} x base",
        "size, bytes": evaluation.size_bytes,
        "latency p50, ms": f"{evaluation.latency_ms_p50:.3f}",
        "speed-up": f"{evaluation.speedup_over_base:.1f}",
        "images/s": f"{evaluation.images_per_second:.0f}",
        "J per 1,000 images": "unknown" if energy is None else f"{energy:.1f}",
        "verdict": evaluation.verdict,
        "because": evaluation.verdict_reason,
    }
