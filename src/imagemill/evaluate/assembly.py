"""From what was measured to a record a variant."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imagemill.evaluate.contest import Cards, base_in
from imagemill.evaluate.cost import Cost
from imagemill.evaluate.machine import describe_machine
from imagemill.evaluate.outside import Outside, novelty_scores, shift_scores
from imagemill.evaluate.quality import Answers, against_parent, quality
from imagemill.evaluate.robustness import Mistakes, robustness
from imagemill.evaluate.slices import Slice, slice_scores
from imagemill.evaluate.verdict import Standing, dominators, judge
from imagemill.params import BASE, EvaluateParams
from imagemill.records import MODELS, Evaluation, ModelCard
from imagemill.runtimes import RUNTIMES
from imagemill.runtimes.footprint import Footprint


@dataclass(frozen=True)
class Measured:
    """All that was found out, by variant where it is of one."""

    on_val: Mapping[str, Answers]
    on_test: Mapping[str, Answers]
    costs: Mapping[str, Cost]  # also of the base in other runtimes
    footprints: Mapping[str, Footprint]
    corrupted: Mapping[str, Mistakes] | None
    num_corrupted: int
    slices: Mapping[str, list[Slice]]
    shift: Outside | None
    novelty: Outside | None


def assemble(
    root: Path, cards: Cards, measured: Measured, params: EvaluateParams
) -> list[Evaluation]:
    """One record a variant, with a verdict.

    Args:
        root: The project's root.
        cards: Variant -> model.json, the base first.
        measured: Everything.
        params: Bins and threads.
    """
    machine = describe_machine(threads=params.threads)
    sizes = {name: _size_bytes(root, card) for name, card in cards.items()}
    found = {name: _found(card, measured, params) for name, card in cards.items()}
    standings = [
        Standing(
            name,
            card.parent,
            found[name]["val_top1"],
            measured.costs[name].latency_ms_p50,
            sizes[name],
            measured.costs[name].energy_joules_per_1000,
            is_ensemble=card.architecture.is_ensemble,
        )
        for name, card in cards.items()
    ]
    verdicts, dominated = judge(standings), dominators(standings)
    return [
        Evaluation(
            variant=name,
            parent=card.parent,
            size_bytes=sizes[name],
            verdict=verdicts[name][0],
            verdict_reason=verdicts[name][1],
            on_pareto_front=not dominated[name],
            dominated_by=dominated[name],
            runtime=card.runtime,
            sha256=card.sha256,
            machine=machine,
            **found[name],
            **measured.costs[name]._asdict(),
            **measured.footprints[name]._asdict(),
            **_counts(root, card),
            **_speedups(card, cards, measured.costs),
        )
        for name, card in cards.items()
    ]


def _found(card: ModelCard, measured: Measured, params: EvaluateParams) -> dict[str, Any]:
    """All about how good it is."""
    name, bins = card.variant, params.calibration_bins
    test, val = measured.on_test[name], measured.on_val[name]
    found = quality(test=test, val=val, classes=card.classes, bins=bins)
    found |= _paired(card, test=measured.on_test, val=measured.on_val)
    found["slices"] = slice_scores(test, measured.slices)
    if measured.corrupted is not None:
        own, base = measured.corrupted[name], measured.corrupted[BASE]
        found |= robustness(own, base, num_images=measured.num_corrupted)
    if measured.shift is not None:
        found["shift"] = shift_scores(measured.shift, name, bins=bins, test_top1=found["top1"])
    if measured.novelty is not None:
        found["out_of_distribution"] = novelty_scores(measured.novelty, name, test)
    return found


def _paired(
    card: ModelCard, *, test: Mapping[str, Answers], val: Mapping[str, Answers]
) -> dict[str, Any]:
    if card.parent is None:
        return {}
    return {
        name: against_parent(card.parent, split[card.parent], split[card.variant], card.classes)
        for name, split in (("paired", test), ("val_paired", val))
    }


def _size_bytes(root: Path, card: ModelCard) -> int:
    """Bytes of what the runtime loads."""
    return (root / MODELS / card.variant / RUNTIMES[card.runtime].file).stat().st_size


def _counts(root: Path, card: ModelCard) -> dict[str, Any]:
    if card.num_parameters is not None:
        return {"num_parameters": card.num_parameters, "macs": card.macs}
    from imagemill.models import count_macs, count_parameters, load_model

    # An INT8 graph of the base itself has the base's.
    holder = card.variant if RUNTIMES["eager"].file in card.files else BASE
    model, _ = load_model(root / MODELS / holder)
    return {
        "num_parameters": count_parameters(model),
        "macs": count_macs(model, card.input_shape),
    }


def _speedups(card: ModelCard, cards: Cards, costs: Mapping[str, Cost]) -> dict[str, Any]:
    own = costs[card.variant].latency_ms_p50
    same_runtime = costs.get(base_in(card.runtime, cards))
    return {
        "speedup_over_base": costs[BASE].latency_ms_p50 / own,
        "speedup_same_runtime": same_runtime.latency_ms_p50 / own if same_runtime else None,
    }
