"""Metrics of predictions, and the temperature that calibrates them (Guo et al., 2017).

Written in numpy: importing scikit-learn takes 1.3 s, longer than an epoch on the sample.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from sentiment_jax.data.labels import decide

RANGE = (0.1, 1e4)  # of temperatures; without a mistake in validation, 0 would be the best
LEAST = np.finfo(np.float32).tiny  # a probability that was rounded to 0
HALF_DIGIT = 5e-7  # half of the last digit of predictions.csv, in place of a 0 there


def score_probabilities(
    labels: Int[np.ndarray, " reviews"], probabilities: Float[np.ndarray, "reviews classes"]
) -> dict[str, Any]:
    """Return loss (mean, nats), accuracy and the number of reviews, as result.json has them."""
    return {
        "loss": log_loss(probabilities, labels),
        "accuracy": int(np.sum(decide(probabilities) == labels)) / len(labels),
        "examples": len(labels),
    }


def measure(
    labels: Int[np.ndarray, " reviews"],
    probabilities: Float[np.ndarray, "reviews classes"],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return scikit-learn's metrics of predictions, JSON-able, and accuracy's 95 % interval.

    Log loss in nats. The Brier score is halved for two classes, where it is (p - label)². The AUC
    of more classes is the mean of one against the rest, and None if a class is absent. What would
    be 0/0 is 0. Every entry reaches result.json and reports (analysis/html.py has their formats);
    console.print_metrics prints some.
    """
    scores = score_probabilities(labels, probabilities)
    total = len(labels)
    confusion = np.zeros((len(names), len(names)))
    np.add.at(confusion, (labels, decide(probabilities)), 1)
    right = confusion.diagonal()
    counts = confusion.sum(axis=1)
    predictions = confusion.sum(axis=0)
    precision = right / np.maximum(predictions, 1)
    recall = right / np.maximum(counts, 1)
    f1 = 2 * right / np.maximum(counts + predictions, 1)
    variances = (total**2 - counts @ counts) * (total**2 - predictions @ predictions)
    covariance = right.sum() * total - counts @ predictions
    distances = np.sum((probabilities - np.eye(len(names))[labels]) ** 2, axis=1)
    two_classes = len(names) == 2
    ranked = [1] if two_classes else range(len(names))
    areas: list[Any] = [area_under_curve(labels == i, probabilities[:, i]) for i in ranked]
    return {
        "accuracy_interval": [*wilson_interval(scores["accuracy"], total)],
        "majority_baseline": float(np.max(counts)) / total,
        "balanced_accuracy": float(recall[counts > 0].mean()),
        "macro_f1": float(f1[counts + predictions > 0].mean()),
        "mcc": float(covariance / np.sqrt(variances)) if variances else 0.0,
        "auc": None if None in areas else float(np.mean(areas, dtype=np.float64)),
        "log_loss": scores["loss"],
        "brier_score": float(distances.mean()) / (2 if two_classes else 1),
        "classes": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "examples": int(counts[i]),
            }
            for i, name in enumerate(names)
        },
    }


def area_under_curve(
    positive: Bool[np.ndarray, " reviews"], p_positive: Float[np.ndarray, " reviews"]
) -> float | None:
    """Return the area under the ROC curve, by ranks: Mann and Whitney (1947).

    It is how often a positive review scores higher than a negative one; None if a class is absent.
    """
    positives = int(positive.sum())
    pairs = positives * (len(positive) - positives)
    _, place, ties = np.unique(p_positive, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    above = ranks[positive].sum() - positives * (positives + 1) / 2
    return float(above / pairs) if pairs else None


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a proportion: Wilson (1927).

    By hand, since the proportion may be a mean over seeds: scipy's `binomtest` wants whole counts.
    """
    z = NormalDist().inv_cdf(0.975)
    center = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(float(center - half), mean), max(float(center + half), mean)


def mcnemar(
    first: Bool[np.ndarray, " reviews"], second: Bool[np.ndarray, " reviews"]
) -> tuple[int, int, float]:
    """Return how many reviews only the first model classified correctly, only the second, and p.

    McNemar's test (1947) in its exact, two-sided form: if neither model is better, each of these
    reviews belongs to either group with probability one half.
    """
    from scipy.stats import binomtest  # late: it takes half a second

    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    total = only_first + only_second
    p = float(binomtest(only_first, total).pvalue) if total else 1.0
    return only_first, only_second, p


def apply_temperature(
    probabilities: Float[np.ndarray, "*any reviews classes"], temperature: float
) -> Float[np.ndarray, "*any reviews classes"]:
    """Return softmax(log p / temperature), which is that of the logits divided by it.

    In float64, so that the order of two nearly equal probabilities is kept.
    """
    if temperature == 1:
        return probabilities
    scaled = np.log(np.maximum(probabilities, LEAST, dtype=np.float64)) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def mcc_by_chance(examples: int) -> float:
    """Return the MCC that one random guesser in twenty exceeds."""
    return 1.645 / math.sqrt(examples)


def log_loss(
    probabilities: Float[np.ndarray, "reviews classes"], labels: Int[np.ndarray, " reviews"]
) -> float:
    """Return the mean of -log p(label), in nats."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_label, LEAST)).mean())


def fit_temperature(
    probabilities: Float[np.ndarray, "reviews classes"], labels: Int32[np.ndarray, " reviews"]
) -> float:
    """Return the temperature that minimizes the log loss, or 1.0 if none is better than that.

    The loss is convex in 1 / temperature: its slope is bisected between the ends of RANGE.
    """
    logs = np.log(np.maximum(probabilities, LEAST, dtype=np.float64))
    of_label = logs[np.arange(len(labels)), labels].mean()
    low, high = np.log(RANGE)
    for _ in range(22):  # to 5 digits
        middle = (low + high) / 2
        softened = apply_temperature(probabilities, np.exp(middle))
        if (softened * logs).sum(axis=-1).mean() > of_label:
            low = middle
        else:
            high = middle
    temperature = round(float(np.exp(high)), 4)
    better = log_loss(apply_temperature(probabilities, temperature), labels)
    return temperature if better < log_loss(probabilities, labels) else 1.0
