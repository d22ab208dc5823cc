"""The stage: the base and its variants on the same images, in one session, with a verdict each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from imagemill.evaluate.assembly import Measured, assemble
from imagemill.evaluate.contest import Cards, measure_footprints, open_shipped, read_cards, time_all
from imagemill.evaluate.curves import draw_mistakes, draw_robustness, draw_selective
from imagemill.evaluate.outside import Outside, ask_outside
from imagemill.evaluate.panel import Panel
from imagemill.evaluate.pictures import draw_comparison, draw_confusion, draw_reliability
from imagemill.evaluate.quality import Answers, ask, confusion
from imagemill.evaluate.robustness import Mistakes, ask_corrupted
from imagemill.evaluate.slices import Slice, slices_of
from imagemill.loading import SplitImages, open_split, to_input
from imagemill.params import BASE, EvaluateParams, Params
from imagemill.records import REPORTS, Evaluation, publishing, publishing_folder
from imagemill.runtimes import Predictor
from imagemill.steps import Step, directly

EVALUATE = REPORTS / "evaluate"
_MISTAKES_SHOWN = 12

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
        SourceError: a set to compare with cannot be read.
        UnknownNameError: test cannot be cut by a column of `evaluate.slices`.
        DiskError: reports/ cannot be written.
    """
    settings = params.evaluate
    cards = read_cards(root, [BASE, *params.compress.variants])
    val, test = (
        open_split(root, split, input_shape=cards[BASE].input_shape, loading=params.loading)
        for split in ("val", "test")
    )
    slices = slices_of(root, test.keys, settings.slices)
    shipped = open_shipped(root, cards, threads=settings.threads)
    with Panel(shipped, settings.views, threads=settings.threads) as panel:
        session = _Session(root, cards, shipped, panel, settings, step)
        measured = session.measure(val, test, slices)
    evaluations = assemble(root, cards, measured, settings)
    with publishing_folder(root / EVALUATE) as folder:
        for evaluation in evaluations:
            evaluation.write(folder / f"{evaluation.variant}.json")
            log(_line(evaluation))
        _write_predictions(folder / "predictions.parquet", test.keys, measured.on_test)
        step(_draw, folder, evaluations, test, measured.on_test, settings)
    return evaluations


@dataclass(frozen=True)
class _Session:
    """All variants, opened."""

    root: Path
    cards: Cards
    shipped: Mapping[str, Predictor]
    panel: Panel
    params: EvaluateParams
    step: Step

    def measure(
        self, val: SplitImages, test: SplitImages, slices: Mapping[str, list[Slice]]
    ) -> Measured:
        step, params = self.step, self.params
        return Measured(
            on_val=step(ask, self.panel, val),
            on_test=step(ask, self.panel, test),
            costs=step(time_all, self.root, self.cards, self.shipped, val, params),
            footprints=step(measure_footprints, self.root, self.cards, params),
            corrupted=self._corrupted(val),
            num_corrupted=min(len(val), params.corruption_images),
            slices=slices,
            shift=self._outside(params.shift, labelled=True),
            novelty=self._outside(params.out_of_distribution, labelled=False),
        )

    def _corrupted(self, val: SplitImages) -> dict[str, Mistakes] | None:
        if not self.params.corruption_images:
            return None
        return self.step(ask_corrupted, self.panel, val, count=self.params.corruption_images)

    def _outside(self, source: str | None, *, labelled: bool) -> Outside | None:
        if source is None:
            return None
        return self.step(
            ask_outside,
            self.root,
            source,
            self.panel,
            self.cards[BASE],
            count=self.params.outside_images,
            labelled=labelled,
        )


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
    evaluations: Sequence[Evaluation],
    test: SplitImages,
    answers: Mapping[str, Answers],
    params: EvaluateParams,
) -> None:
    classes = [str(scores["class"]) for scores in evaluations[0].per_class]
    for variant, given in answers.items():
        draw_confusion(folder / f"confusion-{variant}.png", variant, confusion(given), classes)
        _draw_mistakes(folder / f"mistakes-{variant}.png", classes, test, given)
    draw_reliability(folder / "reliability.png", answers, num_bins=params.calibration_bins)
    draw_selective(folder / "selective.png", evaluations)
    if params.corruption_images:
        draw_robustness(folder / "robustness.png", evaluations)
    draw_comparison(folder / "comparison.png", evaluations)


def _draw_mistakes(path: Path, classes: Sequence[str], test: SplitImages, given: Answers) -> None:
    """Those the variant is surest of."""
    labels_N, probs_NK = given
    predicted_N, confidence_N = probs_NK.argmax(1), probs_NK.max(1)
    wrong = np.flatnonzero(predicted_N != labels_N)
    surest = wrong[np.argsort(-confidence_N[wrong], kind="stable")][:_MISTAKES_SHOWN]
    told = [
        {
            "true": classes[labels_N[position]],
            "predicted": classes[predicted_N[position]],
            "confidence": float(confidence_N[position]),
        }
        for position in surest
    ]
    draw_mistakes(path, to_input(test.take(surest)), told)
