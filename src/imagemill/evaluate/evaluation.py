"""The stage: the base and its variants on the same images, in one session, with a verdict each."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.evaluate.contest import Cards, base_in, open_shipped, read_cards, time_all
from imagemill.evaluate.cost import Cost
from imagemill.evaluate.machine import describe_machine
from imagemill.evaluate.pictures import draw_comparison, draw_confusion, draw_reliability
from imagemill.evaluate.quality import Answers, against_parent, ask, confusion, quality
from imagemill.evaluate.verdict import Standing, dominators, judge
from imagemill.loading import open_split
from imagemill.params import BASE, EvaluateParams, Params
from imagemill.records import MODELS, REPORTS, Evaluation, ModelCard, publishing, publishing_folder
from imagemill.runtimes import RUNTIMES
from imagemill.steps import Step, directly

EVALUATE = REPORTS / "evaluate"

PREDICTIONS_SCHEMA = pa.schema(
    [
        pa.field("variant", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("target", pa.int32(), nullable=False),  # class id
        pa.field("predicted", pa.int32(), nullable=False),  # class id
        pa.field("confidence", pa.float32(), nullable=False),
    ]
)


def evaluate(
    root: Path, params: Params, *, log: Callable[[str], None], step: Step = directly
) -> list[Evaluation]:
    """Measure the base and every variant of `params.compress`, and write reports/evaluate/.

    Args:
        root: The project's root.
        params: All sections; `compress.variants` says which folders of models/ count.
        log: Gets one line a variant.
        step: Calls what takes long.

    Returns:
        One record a variant, the base first.

    Raises:
        IntegrityError: a model is missing, damaged or was trained on other data.
        DiskError: reports/ cannot be written.
    """
    settings, bins = params.evaluate, params.evaluate.calibration_bins
    cards = read_cards(root, [BASE, *params.compress.variants])
    val, test = (
        open_split(root, split, input_shape=cards[BASE].input_shape, loading=params.loading)
        for split in ("val", "test")
    )
    shipped = open_shipped(root, cards, threads=settings.threads)
    on_val = step(ask, shipped, val, settings.views)
    on_test = step(ask, shipped, test, settings.views)
    costs = step(time_all, root, cards, shipped, val, settings)
    found = {
        name: quality(test=on_test[name], val=on_val[name], classes=card.classes, bins=bins)
        | _paired(card, test=on_test, val=on_val)
        for name, card in cards.items()
    }
    evaluations = _evaluations(root, cards, found, costs, threads=settings.threads)
    with publishing_folder(root / EVALUATE) as folder:
        for evaluation in evaluations:
            evaluation.write(folder / f"{evaluation.variant}.json")
            log(_line(evaluation))
        _write_predictions(folder / "predictions.parquet", test.keys, on_test)
        step(_draw, folder, cards[BASE].classes, evaluations, on_test, settings)
    return evaluations


def _evaluations(
    root: Path,
    cards: Cards,
    found: Mapping[str, dict[str, Any]],
    costs: Mapping[str, Cost],
    *,
    threads: int,
) -> list[Evaluation]:
    machine = describe_machine(threads=threads)
    sizes = {name: _size_bytes(root, card) for name, card in cards.items()}
    standings = [
        Standing(
            name,
            card.parent,
            found[name]["val_top1"],
            costs[name].latency_ms_p50,
            sizes[name],
            costs[name].energy_joules_per_1000,
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
            **costs[name]._asdict(),
            **_counts(root, card),
            **_speedups(card, cards, costs),
        )
        for name, card in cards.items()
    ]


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


def _line(evaluation: Evaluation) -> str:
    low, high = evaluation.top1_ci95
    return (
        f"{evaluation.variant}: {evaluation.verdict}. {evaluation.verdict_reason}; test top-1 "
        f"{evaluation.top1:.2%} ({low:.2%} to {high:.2%}), "
        f"{evaluation.images_per_second:,.0f} images/s"
    )


def _write_predictions(path: Path, keys: Sequence[str], answers: Mapping[str, Answers]) -> None:
    """Each variant's choice for each image of test, to look at mistakes without a model."""
    tables = []
    for variant, (labels_N, probs_NK) in answers.items():
        columns = {
            "variant": pa.array([variant] * len(keys)).dictionary_encode(),
            "key": keys,
            "target": labels_N.astype(np.int32),
            "predicted": probs_NK.argmax(1).astype(np.int32),
            "confidence": probs_NK.max(1),
        }
        tables.append(pa.table(columns, schema=PREDICTIONS_SCHEMA))
    with publishing(path) as temporary:
        pq.write_table(pa.concat_tables(tables), temporary, compression="zstd")


def _draw(
    folder: Path,
    classes: Sequence[str],
    evaluations: Sequence[Evaluation],
    answers: Mapping[str, Answers],
    params: EvaluateParams,
) -> None:
    for variant, given in answers.items():
        draw_confusion(folder / f"confusion-{variant}.png", variant, confusion(given), classes)
    draw_reliability(folder / "reliability.png", answers, num_bins=params.calibration_bins)
    draw_comparison(folder / "comparison.png", evaluations)
