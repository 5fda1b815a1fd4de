"""Metrics against scikit-learn's, and the confidence interval against simulation."""

import json

import numpy as np
import pytest
from sklearn import metrics

from sentiment_jax.training.metrics import measure, wilson_interval


def draw(classes, seed):
    """Random labels, the first class the most frequent, and probabilities better than chance.

    Of two classes, many are equally likely: ties in the ranks.
    """
    rng = np.random.default_rng(seed)
    shares = np.arange(classes, 0, -1) ** 2.0
    labels = rng.choice(classes, 400, p=shares / shares.sum())
    weights = rng.random((400, classes)) + 0.4 * np.eye(classes)[labels]
    p = weights / weights.sum(axis=1, keepdims=True)
    if classes == 2:
        p = np.round(p, 2)
    return labels, p.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_on_random_predictions(classes, seed):
    labels, p = draw(classes, seed)
    predicted = p.argmax(axis=1)
    names = [f"class {i}" for i in range(classes)]
    options = {"labels": range(classes), "zero_division": 0}
    found = measure(labels, p, names)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    distances = ((p - np.eye(classes)[labels]) ** 2).sum(axis=1)
    expected = {
        "majority_baseline": np.bincount(labels).max() / 400,
        "macro_f1": metrics.f1_score(labels, predicted, average="macro", **options),
        "mcc": metrics.matthews_corrcoef(labels, predicted),
        "log_loss": metrics.log_loss(labels, p, labels=range(classes)),
        "brier_score": distances.mean(),
    }
    assert (found["auc"] is None) == (classes > 2)
    if classes == 2:
        expected["auc"] = metrics.roc_auc_score(labels, p[:, 1])
        expected["brier_score"] = metrics.brier_score_loss(labels, p[:, 1])
    if classes < 100:  # with absent classes, scikit-learn's is another average, and warns
        expected["balanced_accuracy"] = metrics.balanced_accuracy_score(labels, predicted)
        report = metrics.classification_report(
            labels, predicted, target_names=names, output_dict=True, **options
        )
        for name, of_class in found["classes"].items():
            row = report[name]
            theirs = {"f1": row["f1-score"], "examples": row["support"]}
            theirs |= {"precision": row["precision"], "recall": row["recall"]}
            assert of_class == pytest.approx(theirs)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_gives_numbers_without_a_warning(label):
    p = np.float32([[0.9, 0.1]] * 5)
    found = measure(np.full(5, label), p, ("bad", "good"))
    assert (found["auc"], found["mcc"], found["majority_baseline"]) == (None, 0, 1)
    assert found["balanced_accuracy"] == 1 - label


def test_wilson_interval():
    # Newcombe (1998), table I: 81 of 263.
    np.testing.assert_allclose(wilson_interval(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)
    found = measure(np.array([0, 0, 0, 1]), np.float32([[1, 0], [1, 0], [0, 1], [0, 1]]), "ab")
    assert found["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=5e-5)


@pytest.mark.parametrize("count", [40, 200, 5000])
def test_the_interval_holds_the_true_share_in_95_of_100_test_sets(count):
    """By simulation: 10,000 models of any accuracy from 0.5 to 1, a test set for each."""
    rng = np.random.default_rng(0)
    shares = rng.uniform(0.5, 1, 10_000)
    right = rng.binomial(count, shares)
    bounds = [wilson_interval(k / count, count) for k in range(count + 1)]
    low, high = np.array(bounds)[right].T
    assert np.mean((low <= shares) & (shares <= high)) == pytest.approx(0.95, abs=0.01)
    assert np.mean(shares < low) > 0.015 and np.mean(high < shares) > 0.015  # on either side
