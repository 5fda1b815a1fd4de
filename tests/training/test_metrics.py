"""Figures of verdicts against scikit-learn's own, and the interval against simulation."""

import json

import numpy as np
import pytest
from sklearn import metrics

from sentiment_jax.training.metrics import measure, wilson_interval


def draw(classes, reviews=400, seed=0):
    """Random labels, the first class the most frequent, and probabilities that know a little.

    Of two classes, many are equally likely: ties in the ranks.
    """
    rng = np.random.default_rng(seed)
    shares = np.arange(classes, 0, -1) ** 2.0
    labels = rng.choice(classes, reviews, p=shares / shares.sum())
    weights = rng.random((reviews, classes)) + 0.4 * np.eye(classes)[labels]
    p = weights / weights.sum(axis=1, keepdims=True)
    if classes == 2:
        p = np.round(p, 2)
    return labels, p.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(3))
def test_equals_scikit_learn_on_random_predictions(classes, seed):
    labels, p = draw(classes, seed=seed)
    verdicts, names = p.argmax(axis=1), [f"class {i}" for i in range(classes)]
    known = {"labels": range(classes), "zero_division": 0}
    found = measure(labels, p, names)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    expected = {
        "majority_baseline": np.bincount(labels).max() / 400,
        "macro_f1": metrics.f1_score(labels, verdicts, average="macro", **known),
        "mcc": metrics.matthews_corrcoef(labels, verdicts),
        "log_loss": metrics.log_loss(labels, p, labels=range(classes)),
    }
    if classes < 100:  # with absent classes, scikit-learn's own is another average, and warns
        expected["balanced_accuracy"] = metrics.balanced_accuracy_score(labels, verdicts)
        report = metrics.classification_report(
            labels, verdicts, target_names=names, output_dict=True, **known
        )
        for name, of in found["classes"].items():
            row = {**report[name], "f1": report[name]["f1-score"]}
            assert of == {
                **{figure: pytest.approx(row[figure]) for figure in ("precision", "recall", "f1")},
                "examples": row["support"],
            }
    if classes == 2:
        expected["auc"] = metrics.roc_auc_score(labels, p[:, 1])
        expected["brier_score"] = metrics.brier_score_loss(labels, p[:, 1])
    else:
        assert found["auc"] is None
        distances = [
            ((row - np.eye(classes)[k]) ** 2).sum() for row, k in zip(p, labels, strict=True)
        ]
        expected["brier_score"] = np.mean(distances)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


def test_four_verdicts_by_hand():
    """Labels 0 0 0 1, verdicts 0 0 1 1."""
    p = np.float32([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    found = measure(np.array([0, 0, 0, 1]), p, ("bad", "good"))
    assert found["accuracy_interval"] == pytest.approx([0.3006, 0.9544], abs=5e-5)
    assert found["majority_baseline"] == 0.75
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["mcc"] == pytest.approx(2 / np.sqrt(2 * 2 * 3 * 1))
    assert found["auc"] == 1
    assert found["brier_score"] == pytest.approx((0.01 + 0.04 + 0.36 + 0.09) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean())
    assert found["classes"]["good"] == {
        **{"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "examples": 1}
    }


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_gives_numbers_without_a_warning(label):
    p = np.float32([[0.9, 0.1]] * 5)
    found = measure(np.full(5, label), p, ("bad", "good"))
    assert (found["auc"], found["mcc"], found["majority_baseline"]) == (None, 0, 1)
    assert found["balanced_accuracy"] == 1 - label


def test_wilson_interval():
    # Newcombe (1998), table I: 81 of 263.
    np.testing.assert_allclose(wilson_interval(81 / 263, 263), (0.2553, 0.3662), atol=5e-5)


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
