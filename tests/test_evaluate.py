"""Facts about evaluation: views, timing in turns, energy, verdicts, and what the stage writes."""

import shutil
from collections import deque
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from trained_project import CHAINS, Recorder, small_params

from imagemill.compress import compress
from imagemill.energy import EnergyMeter
from imagemill.errors import IntegrityError
from imagemill.evaluate import VIEWS, evaluate
from imagemill.evaluate.cost import BLOCK, Stopwatch, measure_cost
from imagemill.evaluate.panel import Panel
from imagemill.evaluate.pictures import draw_confusion
from imagemill.evaluate.verdict import Standing, dominators, judge
from imagemill.evaluate.views import averaged, with_views
from imagemill.loading import open_split, to_input
from imagemill.metrics import softmax
from imagemill.params import EvaluateParams
from imagemill.records import Evaluation, ModelCard, ShardManifest
from imagemill.runtimes import open_variant
from pipelines.evaluate import evaluate as evaluate_flow

IMAGE = np.arange(9, dtype=np.float32).reshape(1, 1, 3, 3)
SETTINGS = small_params().evaluate


# Views ---------------------------------------------------------------------------------------


def test_every_view_of_the_params_is_in_the_table() -> None:
    """What params.yaml may name is what there is."""
    allowed = EvaluateParams.model_fields["views"].annotation
    assert set(get_args(get_args(allowed)[0])) == set(VIEWS)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("identity", [[0, 1, 2], [3, 4, 5], [6, 7, 8]]),
        ("mirror", [[2, 1, 0], [5, 4, 3], [8, 7, 6]]),
        ("up", [[3, 4, 5], [6, 7, 8], [6, 7, 8]]),
        ("down", [[0, 1, 2], [0, 1, 2], [3, 4, 5]]),
        ("left", [[1, 2, 2], [4, 5, 5], [7, 8, 8]]),
        ("right", [[0, 0, 1], [3, 3, 4], [6, 6, 7]]),
    ],
)
def test_a_view_moves_by_one_pixel_and_repeats_the_edge(
    view: str, expected: list[list[int]]
) -> None:
    """Shifts name the direction the picture moves in."""
    assert VIEWS[view](IMAGE)[0, 0].tolist() == expected


def test_a_view_of_a_large_image_moves_by_a_32nd_of_its_side() -> None:
    """Three of 96 pixels."""
    image = np.arange(96, dtype=np.float32).repeat(96).reshape(1, 1, 96, 96)
    assert VIEWS["down"](image)[0, 0, :5, 0].tolist() == [0, 0, 0, 0, 1]
    assert VIEWS["left"](image.swapaxes(2, 3))[0, 0, 0, :2].tolist() == [3, 4]


def test_views_are_asked_in_one_call_and_averaged_as_probabilities() -> None:
    """Two views of two images are one batch of four; their probabilities are averaged."""
    images = np.random.default_rng(0).random((2, 1, 3, 3), dtype=np.float32)
    calls: list[int] = []

    def first_row(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return batch[:, 0, 0]

    probs = averaged(with_views(first_row, ("identity", "mirror"))(images), 2)
    expected = (softmax(images[:, 0, 0]) + softmax(images[:, 0, 0, ::-1])) / 2
    assert calls == [4]
    np.testing.assert_allclose(probs, expected, rtol=1e-6)


def test_large_images_are_asked_about_in_parts() -> None:
    """Five of 1.4 million pixels, in two views: one at a time, and the same answers."""
    images = np.random.default_rng(0).random((5, 1, 1200, 1200), np.float32)
    seen: list[int] = []

    def predict(some: np.ndarray) -> np.ndarray:
        seen.append(len(some))
        return some.mean((1, 2))[:, :3]

    with Panel({"base": predict}, ("identity", "mirror"), threads=1) as panel:
        told = panel.probabilities(images)["base"]
    assert seen == [2] * 5
    shown = with_views(predict, ("identity", "mirror"))
    assert np.array_equal(told, averaged(shown(images), 2))


# Cost ----------------------------------------------------------------------------------------


def test_contestants_are_timed_in_turns(tmp_path: Path) -> None:
    """Each gets a warm-up call and a block, then the next one; nobody runs alone for long."""
    calls: list[tuple[str, int]] = []
    contestants = {
        name: lambda batch, name=name: calls.append((name, len(batch))) for name in ("a", "b")
    }
    ticks = iter(range(10**6))
    watch = Stopwatch(lambda: next(ticks), EnergyMeter(tmp_path))
    measure_cost(contestants, IMAGE, SETTINGS, watch)
    single = [name for name, size in calls if size == 1]
    first, rest = BLOCK + 1, SETTINGS.latency_rounds - BLOCK + 1
    assert single == ["a"] * first + ["b"] * first + ["a"] * rest + ["b"] * rest


def test_latency_and_throughput_come_from_the_clock(tmp_path: Path) -> None:
    """A call that takes 2 ms has a latency of 2 ms, and eight images in 2 ms are 4,000 a second."""
    ticks = deque([0])

    def clock() -> int:
        ticks.append(ticks[-1] + 1_000_000)
        return ticks[-1]

    def predict(batch: np.ndarray) -> np.ndarray:
        clock()
        return batch

    cost = measure_cost({"a": predict}, IMAGE, SETTINGS, Stopwatch(clock, EnergyMeter(tmp_path)))
    assert (cost["a"].latency_ms_p50, cost["a"].latency_ms_p95) == (2.0, 2.0)
    assert cost["a"].images_per_second == pytest.approx(4000)


def test_energy_is_unknown_without_counters(tmp_path: Path) -> None:
    """A machine that does not tell gives None, not 0."""
    meter = EnergyMeter(tmp_path)
    assert meter.joules_between(meter.read(), meter.read()) is None


def make_counter(powercap: Path, name: str, microjoules: int) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "max_energy_range_uj").write_text("9999999\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


def test_energy_adds_up_packages_and_survives_a_wrap(tmp_path: Path) -> None:
    """Two packages count, a part of one does not, and a counter that began again at 0 is right."""
    first = make_counter(tmp_path, "intel-rapl:0", 9_500_000)
    make_counter(tmp_path, "intel-rapl:0:0", 1)
    second = make_counter(tmp_path, "intel-rapl:1", 0)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    first.write_text("500000\n")
    second.write_text("2000000\n")
    assert meter.joules_between(before, meter.read()) == pytest.approx(1 + 2)


def test_energy_is_counted_for_a_thousand_images(tmp_path: Path) -> None:
    """Each of the two batches of eight images draws 4 J, so a thousand images draw 500 J."""
    counter = make_counter(tmp_path, "intel-rapl:0", 0)

    def predict(batch: np.ndarray) -> np.ndarray:
        counter.write_text(str((int(counter.read_text()) + 4_000_000) % 10_000_000))
        return batch

    ticks = iter(range(10**6))
    watch = Stopwatch(lambda: next(ticks), EnergyMeter(tmp_path))
    settings = SETTINGS.model_copy(update={"latency_rounds": 1})
    cost = measure_cost({"a": predict}, IMAGE, settings, watch)
    assert cost["a"].energy_joules_per_1000 == pytest.approx(500)


# Verdicts ------------------------------------------------------------------------------------

BASE = Standing("base", None, 0.90, 1.0, 1000)


@pytest.mark.parametrize(
    ("top1", "latency_ms", "size_bytes", "verdict"),
    [
        (0.90, 0.5, 500, "accepted"),
        (0.50, 0.5, 500, "accepted"),
        (0.99, 0.5, 2000, "rejected"),
        (0.99, 2.0, 500, "rejected"),
        (0.99, 0.97, 500, "rejected"),
        (0.99, 2.0, 2000, "rejected"),
        (0.90, 1.0, 1000, "rejected"),
        (0.90, 0.97, 1000, "rejected"),
    ],
)
def test_what_is_not_both_smaller_and_faster_is_rejected(
    top1: float, latency_ms: float, size_bytes: int, verdict: str
) -> None:
    """Both are asked for, whatever the accuracy; 3 % of latency is a tie."""
    verdicts = judge([BASE, Standing("variant", "base", top1, latency_ms, size_bytes)])
    assert verdicts["base"][0] == "base"
    assert verdicts["variant"][0] == verdict


def test_a_variant_is_dominated_by_one_that_is_better_in_something_and_worse_in_nothing() -> None:
    """The reason names the best of those that dominate."""
    verdicts = judge(
        [
            BASE,
            Standing("good", "base", 0.89, 0.50, 400),
            Standing("best", "base", 0.90, 0.51, 400),
            Standing("worse", "base", 0.88, 0.50, 400),
            Standing("quick", "base", 0.80, 0.10, 400),
        ]
    )
    found = {name: verdict for name, (verdict, _) in verdicts.items()}
    assert found == {
        "base": "base",
        "good": "dominated",
        "best": "accepted",
        "worse": "dominated",
        "quick": "accepted",
    }
    assert verdicts["worse"][1].startswith("best is at least as good")


def test_equals_do_not_dominate_each_other() -> None:
    """Two variants with the same figures are both accepted."""
    twins = [Standing(name, "base", 0.9, 0.5, 400) for name in ("one", "two")]
    verdicts = judge([BASE, *twins])
    assert [verdicts[twin.variant][0] for twin in twins] == ["accepted", "accepted"]


def test_whoever_nobody_dominates_is_on_the_front() -> None:
    """A twin does not dominate; less energy does, where both are known."""
    thrifty = Standing("thrifty", "base", 0.9, 1.0, 1000, energy_joules=2.0)
    wasteful = Standing("wasteful", "base", 0.9, 1.0, 1000, energy_joules=3.0)
    assert dominators([BASE, thrifty, wasteful]) == {
        "base": [],
        "thrifty": [],
        "wasteful": ["thrifty"],
    }


def test_a_rejection_says_the_numbers() -> None:
    """Size, latency and accuracy beside the parent's are in the reason."""
    _, reason = judge([BASE, Standing("big", "base", 0.91, 2.0, 3000)])["big"]
    expected = "3.0 kB, 2.000 ms, val top-1 91.00% (size x 3.00, latency x 2.00, +1.00 points)"
    assert reason == f"neither smaller nor faster than base: {expected}"


def test_an_ensemble_has_to_be_right_more_often() -> None:
    """It is larger and slower by nature; accuracy decides."""
    ensembles = [
        Standing("better", "base", 0.91, 3.0, 3000, is_ensemble=True),
        Standing("equal", "base", 0.90, 3.0, 3000, is_ensemble=True),
    ]
    verdicts = judge([BASE, *ensembles])
    assert verdicts["better"][0] == "accepted"
    assert verdicts["equal"][0] == "rejected"
    assert verdicts["equal"][1].startswith("not right more often than base")


# The stage -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with base and two variants, evaluated, and a folder of a variant that is gone."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(trained / "models", root / "models")
    shutil.copytree(trained / "data", root / "data")
    for variant in CHAINS:
        compress(root, small_params(), variant, log=print, progress=lambda *told: None)
    shutil.copytree(root / "models/pruned", root / "models/stale")
    evaluate(root, small_params(), log=print)
    return root


def read(root: Path, variant: str) -> Evaluation:
    return Evaluation.read(root / f"reports/evaluate/{variant}.json")


def test_the_base_and_the_variants_of_the_params_are_evaluated(evaluated: Path) -> None:
    """A folder in models/ that params.yaml does not name is left alone."""
    names = {path.stem for path in (evaluated / "reports/evaluate").glob("*.json")}
    assert names == {"base", "pruned", "int8"}


def test_accuracy_is_that_of_the_shipped_file(evaluated: Path) -> None:
    """Top-1 on test and val is what opening the variant and counting gives."""
    for variant in ("base", "pruned", "int8"):
        predict = open_variant(evaluated / "models" / variant, threads=1)
        evaluation = read(evaluated, variant)
        for split, told in (("test", evaluation.top1), ("val", evaluation.val_top1)):
            images = open_split(
                evaluated, split, input_shape=(1, 12, 12), loading=small_params().loading
            )
            logits = predict(to_input(images.take(np.arange(len(images)))))
            assert told == (logits.argmax(1) == images.targets_N).mean()


def test_an_evaluation_belongs_to_its_file(evaluated: Path) -> None:
    """sha256 and size are those of the file the variant's runtime loads."""
    for variant, file in (("base", "model.safetensors"), ("int8", "model.onnx")):
        evaluation, card = (
            read(evaluated, variant),
            ModelCard.read(evaluated / "models" / variant / "model.json"),
        )
        assert evaluation.sha256 == card.files[file]
        assert evaluation.size_bytes == (evaluated / "models" / variant / file).stat().st_size


def test_a_variant_is_compared_with_its_parent_image_by_image(evaluated: Path) -> None:
    """Gains and losses add up to the difference of both; the base has no parent."""
    records = {
        name: Evaluation.read(evaluated / f"reports/evaluate/{name}.json")
        for name in ("base", *CHAINS)
    }
    assert records["base"].paired is None and records["base"].val_paired is None
    for name in CHAINS:
        told = records[name].paired
        assert told is not None
        parent = records[told["parent"]]
        assert told["delta_top1"] == pytest.approx(records[name].top1 - parent.top1)
        assert (told["only_child_right"] - told["only_parent_right"]) / 30 == pytest.approx(
            told["delta_top1"]
        )
        assert set(told["recall_deltas"]) == {"dark", "grey", "light"}


def test_the_worst_class_and_the_confusions_are_those_of_the_matrix(evaluated: Path) -> None:
    """The lowest recall by name, and the mistakes sum up to all there are."""
    for name in ("base", *CHAINS):
        record = Evaluation.read(evaluated / f"reports/evaluate/{name}.json")
        assert record.worst_class is not None and record.confusions is not None
        lowest = min(score["recall"] for score in record.per_class)
        assert record.worst_class["recall"] == lowest
        mistakes = sum(entry["num_images"] for entry in record.confusions)
        assert mistakes == round((1 - record.top1) * 30)


def test_calibration_by_temperature_does_not_change_who_is_right(evaluated: Path) -> None:
    """It is fitted on val, and stored with what it makes of the error on test."""
    for name in ("base", *CHAINS):
        record = Evaluation.read(evaluated / f"reports/evaluate/{name}.json")
        assert record.temperature is not None and 0.05 <= record.temperature <= 20
        assert record.ece_at_temperature is not None and 0 <= record.ece_at_temperature <= 1


def test_speedups_are_ratios_of_medians(evaluated: Path) -> None:
    """Over the base in its runtime; in the same runtime the base is timed once more."""
    base, int8 = read(evaluated, "base"), read(evaluated, "int8")
    assert (base.speedup_over_base, base.speedup_same_runtime) == (1.0, 1.0)
    assert int8.speedup_over_base == base.latency_ms_p50 / int8.latency_ms_p50
    assert int8.speedup_same_runtime is not None
    assert int8.speedup_same_runtime < int8.speedup_over_base


def test_an_int8_variant_counts_the_parameters_of_its_float_parent(evaluated: Path) -> None:
    """Quantization changes how weights are stored, not how many there are."""
    base, int8, pruned = (read(evaluated, name) for name in ("base", "int8", "pruned"))
    assert (int8.num_parameters, int8.macs) == (base.num_parameters, base.macs)
    assert pruned.num_parameters < base.num_parameters


def test_top_5_of_three_classes_is_null(evaluated: Path) -> None:
    """Where top-5 says nothing it is not given."""
    assert read(evaluated, "base").top5 is None


def test_the_machine_is_part_of_the_record(evaluated: Path) -> None:
    """Figures come with processor, threads and versions."""
    machine = read(evaluated, "base").machine
    assert machine["threads"] == 1
    assert set(machine["versions"]) == {"python", "torch", "onnxruntime", "openvino", "numpy"}


def test_predictions_tell_each_variants_choice_for_each_image(evaluated: Path) -> None:
    """The table has a row for each variant and image of test, and gives the same top-1."""
    table = pq.read_table(evaluated / "reports/evaluate/predictions.parquet").to_pandas()
    assert table.groupby("variant", observed=True).key.nunique().to_dict() == {
        "base": 30,
        "pruned": 30,
        "int8": 30,
    }
    rows = table[table.variant == "pruned"]
    assert (rows.target == rows.predicted).mean() == read(evaluated, "pruned").top1


def test_every_picture_is_a_picture(evaluated: Path) -> None:
    """Confusion matrices, reliability and comparison are PNG files of a small size."""
    pictures = sorted((evaluated / "reports/evaluate").glob("*.png"))
    assert [path.name for path in pictures] == [
        "comparison.png",
        "confusion-base.png",
        "confusion-int8.png",
        "confusion-pruned.png",
        "mistakes-base.png",
        "mistakes-int8.png",
        "mistakes-pruned.png",
        "reliability.png",
        "robustness.png",
        "selective.png",
    ]
    for path in pictures:
        assert cv2.imread(str(path)) is not None
        assert path.stat().st_size < 150_000


def test_a_confusion_matrix_of_many_classes_is_drawn(tmp_path: Path) -> None:
    """With a hundred classes names and counts are left out and the picture stays small."""
    draw_confusion(
        tmp_path / "many.png", "base", np.eye(100, dtype=int), list(map(str, range(100)))
    )
    assert cv2.imread(str(tmp_path / "many.png")).shape[0] < 1600


def test_a_model_of_other_data_is_refused_and_the_old_report_stays(
    evaluated: Path, tmp_path: Path
) -> None:
    """Test images a model may have been trained on say nothing about it."""
    root = tmp_path / "changed"
    shutil.copytree(evaluated, root)
    before = (root / "reports/evaluate/base.json").read_bytes()
    manifest = root / "data/shards/manifest.json"
    ShardManifest.read(manifest).model_copy(update={"digest": "e" * 64}).write(manifest)
    with pytest.raises(IntegrityError, match="was made from data dddddddddddd"):
        evaluate(root, small_params(), log=print)
    assert (root / "reports/evaluate/base.json").read_bytes() == before


def test_the_flow_shows_the_variants_and_the_picture_that_compares_them(evaluated: Path) -> None:
    """Quality, cost and drawing are steps of their own; the table has a row for each variant."""
    recorder = Recorder()
    evaluate_flow(evaluated, small_params(), recorder)
    steps = ["ask", "ask", "time_all", "measure_footprints", "ask_corrupted", "draw"]
    assert recorder.steps == steps
    assert [row["variant"] for row in recorder.tables["variants"]] == ["base", "pruned", "int8"]
    assert recorder.images.keys() == {"comparison", "robustness", "selective"}
    assert [line.split(":")[0] for line in recorder.lines] == ["base", "pruned", "int8"]
