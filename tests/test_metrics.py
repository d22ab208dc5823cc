"""Facts about metrics, most of them checked against scikit-learn and SciPy."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    confusion_matrix as sklearn_confusion,
)
from sklearn.metrics import (
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
    top_k_accuracy_score,
)

from imagemill.errors import ShapeError
from imagemill.metrics import (
    METRICS,
    area_under_risk,
    area_under_roc,
    at_temperature,
    brier_score,
    class_scores,
    confusion_matrix,
    expected_calibration_error,
    fitted_temperature,
    macro_f1,
    negative_log_likelihood,
    paired,
    reliability_bins,
    selective_curve,
    softmax,
    top_k_accuracy,
    wilson_interval,
)

RANDOM = np.random.default_rng(0)
PROBS = RANDOM.dirichlet(np.full(7, 0.4), 500)
LABELS = np.where(RANDOM.random(500) < 0.6, PROBS.argmax(1), RANDOM.integers(0, 7, 500))
CONFUSION = confusion_matrix(LABELS, PROBS.argmax(1), num_classes=7)


def test_softmax_is_scipys() -> None:
    """Logits of any size become the probabilities SciPy gives."""
    logits = RANDOM.normal(0, 300, (20, 5)).astype(np.float32)
    np.testing.assert_allclose(softmax(logits), scipy_softmax(logits.astype(float), 1), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_accuracy_is_scikit_learns(k: int) -> None:
    """Top-k accuracy is scikit-learn's, for every k up to the number of classes."""
    expected = 1.0 if k == 7 else top_k_accuracy_score(LABELS, PROBS, k=k, labels=range(7))
    assert top_k_accuracy(PROBS, LABELS, k=k) == pytest.approx(expected)


def test_equal_probabilities_do_not_all_count() -> None:
    """A net that says the same of every class is right for one class, not for all."""
    probs = np.full((4, 4), 0.25)
    assert top_k_accuracy(probs, np.arange(4), k=1) == 0.25


def test_top_k_refuses_more_classes_than_there_are() -> None:
    """k must not exceed the number of classes."""
    with pytest.raises(ShapeError, match=r"1\.\.7"):
        top_k_accuracy(PROBS, LABELS, k=8)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 1), (83, 100), (9921, 10000)])
def test_wilson_interval_is_scipys(successes: int, trials: int) -> None:
    """The interval is SciPy's, at the ends too."""
    expected = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((expected.low, expected.high))


def test_wilson_interval_stays_between_0_and_1() -> None:
    """All right or all wrong gives a bound of exactly 1 or 0."""
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0


def test_wilson_interval_needs_a_trial() -> None:
    """Nothing tried says nothing."""
    with pytest.raises(ShapeError, match="0 of 0"):
        wilson_interval(0, 0)


def test_confusion_matrix_is_scikit_learns() -> None:
    """Rows are true classes, columns predicted ones."""
    expected = sklearn_confusion(LABELS, PROBS.argmax(1), labels=range(7))
    assert np.array_equal(CONFUSION, expected)


def test_confusion_matrix_refuses_an_unknown_class() -> None:
    """An id outside the classes is an error, not another cell."""
    with pytest.raises(ShapeError, match=r"0\.\.2"):
        confusion_matrix(np.array([0, 3]), np.array([0, 1]), num_classes=3)


def test_class_scores_are_scikit_learns() -> None:
    """Recall, precision, F1 and support of each class are scikit-learn's."""
    precision, recall, f1, support = precision_recall_fscore_support(LABELS, PROBS.argmax(1))
    scores = class_scores(CONFUSION)
    assert [score.num_images for score in scores] == list(support)
    np.testing.assert_allclose([score.recall for score in scores], recall)
    np.testing.assert_allclose([score.precision for score in scores], precision)
    np.testing.assert_allclose([score.f1 for score in scores], f1)


def test_a_class_nobody_predicted_has_precision_0() -> None:
    """Division by nothing gives 0, as in scikit-learn."""
    scores = class_scores(np.array([[2, 0], [1, 0]]))
    assert (scores[1].recall, scores[1].precision, scores[1].f1) == (0, 0, 0)


def test_macro_f1_is_scikit_learns() -> None:
    """Each class counts the same."""
    assert macro_f1(CONFUSION) == pytest.approx(f1_score(LABELS, PROBS.argmax(1), average="macro"))


def test_macro_f1_leaves_out_classes_that_are_not_there() -> None:
    """A class without images and predictions does not pull the mean down, as in scikit-learn."""
    labels, predicted = np.array([0, 0, 2]), np.array([0, 2, 2])
    ours = macro_f1(confusion_matrix(labels, predicted, num_classes=4))
    assert ours == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_reliability_bins_are_scikit_learns() -> None:
    """Confidence and accuracy of the filled bins are those of its calibration curve."""
    correct = PROBS.argmax(1) == LABELS
    accuracy, confidence = calibration_curve(correct, PROBS.max(1), n_bins=15)
    filled = [entry for entry in reliability_bins(PROBS, LABELS, num_bins=15) if entry.num_images]
    np.testing.assert_allclose([entry.accuracy for entry in filled], accuracy)
    np.testing.assert_allclose([entry.confidence for entry in filled], confidence)


def test_calibration_error_by_hand() -> None:
    """Two bins: |3/4 - 0.9| for four images, |0 - 0.6| for one, averaged by size."""
    probs = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]])
    labels = np.array([0, 0, 0, 1, 1])
    error = expected_calibration_error(probs, labels, num_bins=5)
    assert error == pytest.approx((4 * 0.15 + 1 * 0.6) / 5)


def test_certain_and_right_is_calibrated() -> None:
    """A net that is sure and right has no calibration error."""
    assert expected_calibration_error(np.eye(3), np.arange(3), num_bins=10) == 0.0


def test_a_confidence_on_an_edge_belongs_to_the_lower_bin() -> None:
    """Bins are open below and closed above."""
    bins = reliability_bins(np.array([[0.5, 0.5]]), np.array([0]), num_bins=2)
    assert [entry.num_images for entry in bins] == [1, 0]


@pytest.mark.parametrize(
    ("probs", "labels"),
    [
        (np.zeros((0, 3)), np.zeros(0, int)),
        (np.zeros(3), np.zeros(3, int)),
        (np.eye(3), np.zeros(2, int)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(probs: np.ndarray, labels: np.ndarray) -> None:
    """No image, one axis too few, or another number of labels is a named error."""
    with pytest.raises(ShapeError, match="expected"):
        expected_calibration_error(probs, labels, num_bins=15)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_perfect_predictions_is_1(name: str) -> None:
    """Every metric in the table is 1 where all is right."""
    assert METRICS[name](np.eye(6), np.arange(6)) == 1.0


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_falls_with_mistakes(name: str) -> None:
    """Every metric in the table is below 1 and not below 0 where the best class is always wrong."""
    value = METRICS[name](1 - np.eye(6), np.arange(6))
    assert value is not None
    assert 0 <= value < 1


def test_likelihood_is_scikit_learns() -> None:
    """The mean log loss, and no infinity for a true class that was ruled out."""
    assert negative_log_likelihood(PROBS, LABELS) == pytest.approx(log_loss(LABELS, PROBS))
    ruled_out = negative_log_likelihood(np.array([[1.0, 0.0]]), np.array([1]))
    assert ruled_out == pytest.approx(-np.log(1e-12))


def test_brier_score_by_hand() -> None:
    """0.2 off in both classes costs twice 0.04; certain and wrong costs 2."""
    assert brier_score(np.array([[0.8, 0.2]]), np.array([0])) == pytest.approx(0.08)
    assert brier_score(np.array([[1.0, 0.0]]), np.array([1])) == 2


def test_the_temperature_undoes_what_made_a_model_overconfident() -> None:
    """Logits three times too large, labels drawn from the right ones: about 3, and calibrated."""
    draws = np.random.default_rng(1)
    logits = draws.normal(0, 1.5, (20_000, 4))
    right = softmax(logits)
    labels = (right.cumsum(1) < draws.random((20_000, 1))).sum(1)
    temperature = fitted_temperature(softmax(3 * logits), labels)
    # 20,000 labels leave it uncertain by about 1 %.
    assert temperature == pytest.approx(3, rel=0.05)
    # Probabilities below 1e-12 count as that: 1e-4 at this temperature.
    assert np.allclose(at_temperature(softmax(3 * logits), 3), right, atol=1e-4)


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (3, 3), (1, 9), (40, 12), (300, 400)])
def test_mcnemars_p_is_scipys(lost: int, won: int) -> None:
    """The exact test on the images where one of two models alone is right."""
    first = np.array([0] * lost + [1] * won + [0] * 10)
    second = np.array([1] * lost + [0] * won + [0] * 10)
    found = paired(first, second, np.zeros_like(first))
    expected = binomtest(lost, lost + won).pvalue if lost + won else 1.0
    assert found.mcnemar_p == pytest.approx(expected)
    assert (found.only_first_right, found.only_second_right) == (lost, won)
    assert found.flip_rate == pytest.approx((lost + won) / (lost + won + 10))
    assert found.delta_top1 == pytest.approx((won - lost) / (lost + won + 10))
    assert found.delta_ci95[0] <= found.delta_top1 <= found.delta_ci95[1]


def test_the_interval_of_a_gain_holds_the_truth_as_often_as_it_says() -> None:
    """Of 1,000 pairs of models that differ by 4 points, about 950 (4 standard deviations)."""
    draws, held = np.random.default_rng(2), 0
    for _ in range(1000):
        cells = draws.multinomial(400, [0.06, 0.10, 0.84])
        first = np.repeat([0, 1, 0], cells)
        second = np.repeat([1, 0, 0], cells)
        low, high = paired(first, second, np.zeros(400, int)).delta_ci95
        held += low <= 0.04 <= high
    assert abs(held - 950) < 4 * (1000 * 0.95 * 0.05) ** 0.5


def test_models_are_paired_on_the_same_images_only() -> None:
    """Lists of other lengths are refused with their shapes."""
    with pytest.raises(ShapeError, match=r"\(2,\), \(3,\)"):
        paired(np.zeros(2, int), np.zeros(3, int), np.zeros(3, int))


def test_top_5_of_five_classes_says_nothing() -> None:
    """With five classes or fewer the table's top-5 is None."""
    assert METRICS["top5"](np.eye(5), np.arange(5)) is None


def test_metrics_need_no_torch() -> None:
    """Importing the metrics does not bring torch."""
    code = "import sys, imagemill.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Order ---------------------------------------------------------------------------------------


def test_a_selective_curve_answers_the_surest_first() -> None:
    """Of four images the two surest are right; with all of them half are."""
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.6, 0.4]])
    labels = np.array([0, 1, 1, 1])
    curve = selective_curve(probs, labels, num_points=4)
    assert [point.coverage for point in curve] == [0.25, 0.5, 0.75, 1.0]
    assert [point.confidence for point in curve] == [0.9, 0.8, 0.7, 0.6]
    assert [point.accuracy for point in curve] == [1.0, 1.0, pytest.approx(2 / 3), 0.5]
    assert area_under_risk(probs, labels) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_area_under_roc_is_that_of_scikit_learn() -> None:
    """With ties, on random scores."""
    generator = np.random.default_rng(0)
    positives, negatives = generator.integers(3, 9, 200) / 8, generator.integers(0, 7, 300) / 8
    truth = np.repeat([1, 0], [200, 300])
    expected = roc_auc_score(truth, np.concatenate([positives, negatives]))
    assert area_under_roc(positives, negatives) == pytest.approx(expected)


def test_area_under_roc_needs_scores_of_both_kinds() -> None:
    """Nothing can be ranked against nothing."""
    with pytest.raises(ShapeError, match="got 0 and 2"):
        area_under_roc(np.array([]), np.array([0.1, 0.2]))
