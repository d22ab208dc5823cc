"""Facts about corruptions and other sets in an evaluation."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_shards import CLASSES, picture
from trained_project import SIZE, small_params

from imagemill.decoding import encode_png
from imagemill.errors import SourceError
from imagemill.evaluate import evaluate
from imagemill.evaluate.corruptions import CORRUPTIONS
from imagemill.evaluate.outside import Outside, ask_outside, novelty_scores, shift_scores
from imagemill.evaluate.panel import Panel
from imagemill.evaluate.quality import Answers, ask
from imagemill.evaluate.robustness import ask_corrupted, robustness
from imagemill.loading import open_split
from imagemill.params import EvaluateParams
from imagemill.records import Evaluation, ModelCard
from imagemill.runtimes import open_variant
from imagemill.runtimes.footprint import measure_footprint

PARAMS = small_params()


def settings(**changed: object) -> EvaluateParams:
    """The section `evaluate` with changes."""
    return PARAMS.evaluate.model_copy(update=changed)


# Corruptions ---------------------------------------------------------------------------------


def test_relative_error_is_one_for_the_base() -> None:
    """And the mean of ratios over the corruptions for others, half a mistake added to both."""
    base = {"fog": [1, 2, 3, 4, 5], "snow": [0, 0, 0, 0, 0]}
    own = {"fog": [2, 4, 6, 8, 10], "snow": [1, 0, 0, 0, 0]}
    assert robustness(base, base, num_images=10)["relative_corruption_error"] == 1
    told = robustness(own, base, num_images=10)
    assert told["relative_corruption_error"] == pytest.approx((30.5 / 15.5 + 1.5 / 0.5) / 2)
    assert told["corruption"]["errors"]["fog"] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert told["corruption"]["mean_error"] == pytest.approx((30 / 50 + 1 / 50) / 2)


def test_all_variants_see_the_same_corrupted_images(trained: Path) -> None:
    """The base beside itself makes the same mistakes; each corruption has five counts."""
    val = open_split(trained, "val", input_shape=(1, SIZE, SIZE), loading=PARAMS.loading)
    base = open_variant(trained / "models/base", threads=1)
    with Panel({"one": base, "two": base}, ("identity",), threads=1) as panel:
        mistakes = ask_corrupted(panel, val, count=20)
    assert mistakes["one"] == mistakes["two"]
    assert mistakes["one"].keys() == CORRUPTIONS.keys()
    assert all(len(counts) == 5 and max(counts) <= 20 for counts in mistakes["one"].values())


def test_what_tells_brightness_apart_fails_where_brightness_goes(trained: Path) -> None:
    """Classes are dark, grey and light squares: contrast hurts more than pixelation does."""
    val = open_split(trained, "val", input_shape=(1, SIZE, SIZE), loading=PARAMS.loading)
    base = open_variant(trained / "models/base", threads=1)
    with Panel({"base": base}, ("identity",), threads=1) as panel:
        mistakes = ask_corrupted(panel, val, count=30)["base"]
    assert sum(mistakes["brightness"]) > sum(mistakes["pixelate"])


# Other sets ----------------------------------------------------------------------------------


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """Twelve pictures like those of the data in folders by class, six of another class."""
    for number in range(12):
        folder = tmp_path / "shifted" / CLASSES[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(encode_png(picture(number, SIZE)))
    (tmp_path / "shifted/purple").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 1), dtype=np.uint8)
        (tmp_path / f"shifted/purple/{number}.png").write_bytes(encode_png(noise))
    return tmp_path / "shifted"


def asked(trained: Path, source: Path, *, labelled: bool, count: int = 100) -> Outside:
    """What the base says of a set."""
    card = ModelCard.read(trained / "models/base/model.json")
    predictors = {"base": open_variant(trained / "models/base", threads=1)}
    with Panel(predictors, ("identity",), threads=1) as panel:
        return ask_outside(trained, str(source), panel, card, count=count, labelled=labelled)


def test_a_shifted_set_is_scored_on_the_classes_the_model_knows(
    trained: Path, shifted: Path
) -> None:
    """Images of other classes and broken ones are left out and counted."""
    (shifted / "dark/broken.png").write_bytes(b"no picture")
    outside = asked(trained, shifted, labelled=True)
    told = shift_scores(outside, "base", bins=15, test_top1=1.0)
    assert (told["num_images"], told["num_left_out"]) == (12, 7)
    assert told["drop"] == pytest.approx(1 - told["top1"])
    assert told["top1_ci95"][0] <= told["top1"] <= told["top1_ci95"][1]


def test_the_digest_of_a_set_is_that_of_its_images(trained: Path, shifted: Path) -> None:
    """Another byte, another digest; asked again, the same."""
    first, again = (asked(trained, shifted, labelled=True).digest for _ in range(2))
    (shifted / "dark/0.png").write_bytes(encode_png(picture(99, SIZE)))
    assert first == again != asked(trained, shifted, labelled=True).digest


def test_no_more_images_are_taken_than_asked_for(trained: Path, shifted: Path) -> None:
    """Which ones depends on their names alone."""
    outside = asked(trained, shifted, labelled=False, count=5)
    assert len(outside.answers["base"].labels_N) == 5


def test_a_set_without_a_known_class_is_refused(trained: Path, shifted: Path) -> None:
    """The message names the classes that are expected."""
    for name in CLASSES:
        shutil.rmtree(shifted / name)
    with pytest.raises(SourceError, match="expected images of the classes dark, grey, light"):
        asked(trained, shifted, labelled=True)


def test_the_data_itself_is_not_out_of_distribution(trained: Path, shifted: Path) -> None:
    """Pictures like those of test are told apart by chance only; a set of certainty 0 entirely."""
    test = open_split(trained, "test", input_shape=(1, SIZE, SIZE), loading=PARAMS.loading)
    base = {"base": open_variant(trained / "models/base", threads=1)}
    with Panel(base, ("identity",), threads=1) as panel:
        known = ask(panel, test)["base"]
    outside = asked(trained, shifted, labelled=False)
    same = outside._replace(answers={"base": known})
    assert novelty_scores(same, "base", known)["auroc"] == pytest.approx(0.5)
    unsure = Answers(known.labels_N, np.full_like(known.probs_NK, 1 / 3))
    told = novelty_scores(outside._replace(answers={"base": unsure}), "base", known)
    assert told["auroc"] == pytest.approx(1.0)
    assert told["false_positives_at_95"] == 0


def test_an_evaluation_records_both_sets(trained: Path, shifted: Path, tmp_path: Path) -> None:
    """Each with source, digest and how many images there were."""
    root = tmp_path / "project"
    shutil.copytree(trained / "models", root / "models")
    shutil.copytree(trained / "data", root / "data")
    changed = settings(shift=str(shifted), out_of_distribution=str(shifted), corruption_images=0)
    compress = PARAMS.compress.model_copy(update={"variants": {}})
    params = PARAMS.model_copy(update={"evaluate": changed, "compress": compress})
    evaluate(root, params, log=print)
    record = Evaluation.read(root / "reports/evaluate/base.json")
    assert record.shift is not None and record.out_of_distribution is not None
    assert record.shift["num_images"] == 12 and record.out_of_distribution["num_images"] == 18
    assert record.shift["source"] == str(shifted)
    assert record.corruption is None and record.relative_corruption_error is None
    assert not (root / "reports/evaluate/robustness.png").exists()


# A process of its own ------------------------------------------------------------------------


def test_a_footprint_is_of_a_process_of_its_own(trained: Path) -> None:
    """A runtime without torch needs less memory than torch, and both tell how long loading is."""
    eager, onnx = (
        measure_footprint(trained / "models/base", runtime, threads=1, batch=8)
        for runtime in ("eager", "onnxruntime")
    )
    assert eager.peak_memory_bytes is not None and onnx.peak_memory_bytes is not None
    assert 20e6 < onnx.peak_memory_bytes < eager.peak_memory_bytes
    assert 0 < onnx.load_ms < 10_000
