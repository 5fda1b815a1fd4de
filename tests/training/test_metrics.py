"""Metrics against scikit-learn's; temperatures: a known one is found, no prediction changes."""

import functools
import json

import numpy as np
import pytest
import scipy.special
from sklearn import metrics

from sentiment_jax.data.kinds import ONE_CLASS, MultiLabel
from sentiment_jax.data.labels import apply_temperature
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.training.metrics import (
    fit_temperature,
    log_loss,
    mcnemar,
    measure,
    score_resampled,
    wilson_interval,
)


def draw(classes, seed):
    """Random labels, the first class the most frequent, and probabilities better than chance."""
    rng = np.random.default_rng(seed)
    shares = np.arange(classes, 0, -1) ** 2.0
    labels = rng.choice(classes, 400, p=shares / shares.sum())
    weights = rng.random((400, classes)) + 0.4 * np.eye(classes)[labels]
    p = weights / weights.sum(axis=1, keepdims=True)
    if classes == 2:
        p = np.round(p, 2)  # ties in the ranks
    return labels, p.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_on_random_predictions(classes, seed):
    labels, p = draw(classes, seed)
    predicted = p.argmax(axis=1)
    names = [f"class {i}" for i in range(classes)]
    options = {"labels": range(classes), "zero_division": 0}
    found = measure(ONE_CLASS, of_numbers(labels, classes), p, names)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    distances = ((p - np.eye(classes)[labels]) ** 2).sum(axis=1)
    expected = {
        "majority_baseline": np.bincount(labels).max() / 400,
        "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
        "mcc": metrics.matthews_corrcoef(labels, predicted),
        "log_loss": metrics.log_loss(labels, p, labels=range(classes)),
        "brier_score": distances.mean(),
    }
    if len({*labels}) == classes:
        scores = p if classes > 2 else p[:, 1]
        expected["auc"] = metrics.roc_auc_score(labels, scores, multi_class="ovr")
    else:
        assert found["auc"] is None
    if classes == 2:
        expected["brier_score"] = metrics.brier_score_loss(labels, p[:, 1])
    if classes < 100:  # with absent classes it warns
        expected["balanced_accuracy"] = metrics.balanced_accuracy_score(labels, predicted)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    theirs = metrics.precision_recall_fscore_support(labels, predicted, **options)
    assert list(found["classes"]) == names
    for name, values in zip(("precision", "recall", "f1", "examples"), theirs, strict=True):
        ours = [of_class[name] for of_class in found["classes"].values()]
        np.testing.assert_allclose(ours, values, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.filterwarnings("ignore:A single label was found")
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_classes_that_are_absent_count_as_in_scikit_learn(classes):
    """Those of neither labels nor predictions count nowhere: all right is a macro F1 of 1."""
    rng = np.random.default_rng(0)
    for i in range(150):
        truth = rng.choice(rng.choice(classes, 2), 6)
        guess = truth if i % 3 == 2 else rng.choice(rng.choice(classes, 1 + i % 3), 6)
        p = np.float32(of_numbers(guess, classes))
        found = measure(ONE_CLASS, of_numbers(truth, classes), p, "abcdefgh"[:classes])
        balanced = metrics.balanced_accuracy_score(truth, guess)
        assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"))
        assert found["balanced_accuracy"] == pytest.approx(balanced)
    assert (found["macro_f1"], found["balanced_accuracy"]) == (1, 1)


def test_a_confident_mistake_counts_in_full():
    p = np.array([[1.0, 1e-20]], np.float32)
    found = measure(ONE_CLASS, np.array([[False, True]]), p, ["no", "yes"])
    assert found["log_loss"] == pytest.approx(-np.log(1e-20))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_gives_numbers_without_a_warning(label):
    labels = of_numbers(np.full(5, label), 2)
    found = measure(ONE_CLASS, labels, np.float32([[0.9, 0.1]] * 5), ("bad", "good"))
    assert (found["auc"], found["mcc"], found["majority_baseline"]) == (None, 0, 1)
    assert found["balanced_accuracy"] == 1 - label


def test_wilson_interval():
    # Newcombe (1998), table I: 81 of 263.
    np.testing.assert_allclose(wilson_interval(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)
    labels = of_numbers(np.array([0, 0, 0, 1]), 2)
    found = measure(ONE_CLASS, labels, np.float32([[1, 0], [1, 0], [0, 1], [0, 1]]), "ab")
    assert found["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=5e-5)


def softmax(logits):
    return scipy.special.softmax(logits, axis=1).astype(np.float32)


@pytest.mark.parametrize(("classes", "known"), [(2, 0.3), (3, 1.0), (3, 2.5), (7, 6.0)])
def test_a_known_temperature_is_recovered(classes, known):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, classes))
    labels = of_numbers((logits + rng.gumbel(size=logits.shape)).argmax(axis=1), classes)
    fitted = fit_temperature(softmax(known * logits), labels)  # the labels follow softmax(logits)
    assert fitted == pytest.approx(known, rel=0.03)
    calibrated = apply_temperature(softmax(known * logits), fitted)
    np.testing.assert_allclose(calibrated, softmax(known * logits / fitted), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 10.0])
def test_no_prediction_changes(temperature):
    logits = 100 * np.random.default_rng(0).normal(size=(20_000, 4))
    even = np.float32([[0.5, 0.5, 0, 0], [0.5 - 2**-25, 0.5 + 2**-24, 0, 0]])
    probabilities = np.concatenate([softmax(logits), even])
    calibrated = apply_temperature(probabilities, temperature)
    assert np.all(calibrated.argmax(axis=1) == probabilities.argmax(axis=1))
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    assert calibrated[-2, 0] == calibrated[-2, 1]
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities)


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_on_validation_never_gets_worse_and_no_temperature_nearby_is_better(seed):
    """Few texts, labels that the probabilities do not predict, and rounding to 0."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 5))
    reviews = int(rng.integers(1, 30))
    probabilities = softmax(10 ** rng.uniform(-2, 2.5) * rng.normal(size=(reviews, classes)))
    labels = of_numbers(rng.integers(0, classes, reviews), classes)
    loss = functools.partial(log_loss, ONE_CLASS, labels=labels)
    fitted = fit_temperature(probabilities, labels)
    least = loss(apply_temperature(probabilities, fitted))
    assert least <= loss(probabilities) + 1e-12
    for near in np.clip((0.98 * fitted, 1.02 * fitted), 0.1, 10):
        assert least <= loss(apply_temperature(probabilities, float(near))) + 1e-9


def test_mcnemar_against_a_table_worked_by_hand():
    """Ten texts on which two models differ, nine for the second: 2 * (1 + 10) / 2**10."""
    first = np.array([True] * 30 + [False] * 6 + [True] + [False] * 9)
    second = np.array([True] * 30 + [False] * 6 + [False] + [True] * 9)
    p = pytest.approx(22 / 1024)
    assert (mcnemar(first, second), mcnemar(second, first)) == ((1, 9, p), (9, 1, p))
    assert mcnemar(first, first) == (0, 0, 1.0)  # models that never differ


@pytest.mark.parametrize("kind", [ONE_CLASS, MultiLabel()])
def test_resampled_scores_are_those_of_the_repeated_reviews(kind):
    rng = np.random.default_rng(3)
    labels = of_numbers(rng.integers(0, 3, 40), 3)
    if kind != ONE_CLASS:
        labels = rng.integers(0, 2, (40, 3)) > 0
    probabilities = rng.dirichlet(np.ones(3), 40)
    predicted = kind.decide(probabilities, kind.thresholds(3))
    counts = np.stack([np.ones(40), rng.multinomial(40, np.full(40, 1 / 40))])
    given = (kind, labels, predicted, probabilities, counts, ("a", "b", "c"))
    for by, score in (
        ("accuracy", lambda y, p, _: metrics.accuracy_score(y, p)),
        ("macro_f1", lambda y, p, _: metrics.f1_score(y, p, average="macro", zero_division=0)),
        ("log_loss", lambda y, _, p: -log_loss(kind, p, y)),
    ):
        found = score_resampled(by, *given)
        for value, row in zip(found, counts, strict=True):
            rows = np.repeat(np.arange(40), row.astype(int))
            expected = score(labels[rows], predicted[rows], probabilities[rows])
            assert value == pytest.approx(expected), by


def test_the_recall_of_a_class_at_a_precision():
    probabilities = np.array([[0.4, 0.6], [0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])
    labels = of_numbers(np.array([1, 1, 0, 1]), 2)
    predicted = ONE_CLASS.decide(probabilities)
    counts = np.array([[1.0, 1, 1, 1], [1, 1, 0, 1], [0, 1, 1, 1]])
    for precision, expected in ((0.7, [1, 1, 0.5]), (0.9, [1 / 3, 1, 0.5]), (1, [1 / 3, 1, 0.5])):
        by = f"recall:b@{precision}"
        given = (labels, predicted, probabilities, counts, ("a", "b"))
        found = score_resampled(by, ONE_CLASS, *given)
        assert found.tolist() == pytest.approx(expected)
    probabilities[:] = 0.5  # no threshold is between equal ones: all texts are found, or none
    for precision, expected in ((0.7, [1, 1, 0]), (0.9, [0, 1, 0])):
        found = score_resampled(f"recall:b@{precision}", ONE_CLASS, *given)
        assert found.tolist() == pytest.approx(expected)
