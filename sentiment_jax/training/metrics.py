"""Metrics of predictions, and the temperature that calibrates them (Guo et al., 2017).

Written in numpy: importing scikit-learn takes 1.3 s, longer than an epoch on the sample.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float

from sentiment_jax.config.schema import FEW_CLASSES
from sentiment_jax.data.kinds import ONE_CLASS, Column, LabelKind, Labels, Mask, Probabilities
from sentiment_jax.data.labels import LEAST, apply_temperature, find_class

RANGE = (0.1, 1e4)  # of temperatures; without a mistake in validation, 0 would be the best
HALF_DIGIT = 5e-7  # half of the last digit of predictions.csv, in place of a 0 there


def score_probabilities(
    kind: LabelKind, labels: Labels, probabilities: Probabilities, thresholds: Sequence[float] = ()
) -> dict[str, Any]:
    """Return loss (mean, nats), accuracy and the number of texts, as result.json has them."""
    predicted = kind.decide(probabilities, thresholds)
    return {
        "loss": log_loss(kind, probabilities, labels),
        "accuracy": int(is_correct(labels, predicted).sum()) / len(labels),
        "examples": len(labels),
        **kind.more_scores(labels, predicted),
    }


def is_correct(labels: Labels, predicted: Labels) -> Mask:
    """Return which predictions are exact matches: the class, or all labels, are right."""
    return np.all(labels == predicted, axis=1)


def coverage(
    kind: LabelKind,
    labels: Labels,
    probabilities: Probabilities,
    thresholds: Sequence[float],
    at_least: float,
) -> tuple[float, float | None]:
    """Return the share of texts whose class is `at_least` so probable, and the accuracy on them.

    It is a point of the risk-coverage curve: El-Yaniv and Wiener (2010),
    https://jmlr.org/papers/v11/el-yaniv10a.html. InputError: a text may have several labels.
    """
    sure = kind.p_of_predicted(probabilities, thresholds) >= at_least
    right = is_correct(labels, kind.decide(probabilities, thresholds))
    return float(sure.mean()), float(right[sure].mean()) if sure.any() else None


def measure(
    kind: LabelKind,
    labels: Labels,
    probabilities: Probabilities,
    names: Sequence[str],
    thresholds: Sequence[float] = (),
) -> dict[str, Any]:
    """Return scikit-learn's metrics of predictions, JSON-able, and accuracy's 95 % interval.

    Log loss in nats. The Brier score is halved for two classes, where it is (p - label)². The AUC
    of more classes is the mean of one against the rest, and None if a class is absent. What would
    be 0/0 is 0. In multi-label classification, MCC, AUC and Brier score are means over the labels.
    Every entry reaches result.json and reports (analysis/html.py has their formats);
    console.print_metrics prints some.
    """
    scores = score_probabilities(kind, labels, probabilities, thresholds)
    total = len(labels)
    true, made = (of.astype(float) for of in (labels, kind.decide(probabilities, thresholds)))
    right, counts, predictions = (of.sum(axis=0) for of in (true * made, true, made))
    columns = {
        "precision": right / np.maximum(predictions, 1),
        "recall": right / np.maximum(counts, 1),
        "f1": 2 * right / np.maximum(counts + predictions, 1),
        **kind.class_metrics(labels, probabilities),
        "examples": counts.astype(int),
    }
    first = int(kind.is_binary(len(names)))
    areas: list[Any] = [*map(area_under_curve, labels.T[first:], probabilities.T[first:])]
    averages = kind.averages(right, counts, predictions, total)
    sets = np.unique(true, axis=0, return_counts=True)[1]
    distances = np.sum((probabilities - true) ** 2, axis=1)
    return {
        "accuracy_interval": [*wilson_interval(scores["accuracy"], total)],
        "majority_baseline": float(sets.max()) / total,
        **{name: float(value) for name, value in averages.items()},
        "auc": None if None in areas else float(np.mean(areas, dtype=np.float64)),
        "log_loss": scores["loss"],
        "brier_score": float(distances.mean()) / kind.brier_terms(len(names)),
        "classes": {
            name: {column: of.tolist()[i] for column, of in columns.items()}
            for i, name in enumerate(names)
        },
    }


def worst_classes(classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the names of the classes of `measure`: of many by rising recall, absent ones last."""
    if len(classes) <= FEW_CLASSES:
        return [*classes]
    return sorted(classes, key=lambda n: (not (of := classes[n])["examples"], of["recall"]))


def area_under_curve(positive: Mask, p_positive: Column) -> float | None:
    """Return the area under the ROC curve, by ranks: Mann and Whitney (1947).

    It is how often a positive text scores higher than a negative one; None if a class is absent.
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


def mcnemar(first: Mask, second: Mask) -> tuple[int, int, float]:
    """Return how many texts only the first model classified correctly, only the second, and p.

    McNemar's test (1947) in its exact, two-sided form: if neither model is better, each of these
    texts belongs to either group with probability one half.
    """
    from scipy.special import bdtr  # of the binomial distribution; scipy.stats takes a second

    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    total = only_first + only_second
    p = min(2 * float(bdtr(min(only_first, only_second), total, 0.5)), 1.0)
    return only_first, only_second, p


def score_resampled(
    by: str,
    kind: LabelKind,
    labels: Labels,
    predicted: Labels,
    probabilities: Probabilities | None,
    counts: Float[np.ndarray, "samples texts"],
    names: Sequence[str],
) -> Float[np.ndarray, " samples"]:
    """Return a score, greater is better, of samples that have each text so many times.

    `by` is accuracy, macro_f1, log_loss (its negative), or recall:CLASS@PRECISION: the highest
    recall of a class at a threshold of its probability that has at least this precision.
    """
    totals = counts.sum(axis=1)
    if by == "accuracy":
        return counts @ is_correct(labels, predicted) / totals
    if by == "log_loss":
        assert probabilities is not None
        of_labels = kind.p_of_labels(probabilities, labels)
        losses = -np.log(np.maximum(of_labels, LEAST, dtype=np.float64))
        return -counts @ losses.mean(axis=1) / totals
    true, made = (of.astype(float) for of in (labels, predicted))
    if by == "macro_f1":
        both = counts @ (true + made)
        found = 2 * (counts @ (true * made)) / np.maximum(both, 1)
        return found.mean(axis=1, where=kind.counted(both))
    assert probabilities is not None
    name, _, precision = by.removeprefix("recall:").rpartition("@")
    number = find_class(name, names)
    order = np.argsort(-probabilities[:, number], kind="stable")
    hits = np.cumsum(counts[:, order] * true[order, number], axis=1)
    precise = hits >= float(precision) * np.cumsum(counts[:, order], axis=1)
    precise &= np.diff(probabilities[order, number], append=-1) < 0  # none is between equal ones
    return np.max(hits, axis=1, where=precise, initial=0) / np.maximum(hits[:, -1], 1)


def mcc_by_chance(examples: int) -> float:
    """Return the MCC that one random guesser in twenty exceeds."""
    return 1.645 / math.sqrt(examples)


def log_loss(kind: LabelKind, probabilities: Probabilities, labels: Labels) -> float:
    """Return the mean of -log p(label), in nats."""
    of_labels = kind.p_of_labels(probabilities, labels).astype(np.float64)
    return float(-np.log(np.maximum(of_labels, LEAST)).mean())


def fit_temperature(probabilities: Probabilities, labels: Labels) -> float:
    """Return the temperature that minimizes the log loss, or 1.0 if none is better than that.

    Each text has one class. The loss is convex in 1 / temperature: its slope is bisected between
    the ends of RANGE.
    """
    logs = np.log(np.maximum(probabilities, LEAST, dtype=np.float64))
    of_label = logs[labels].mean()
    low, high = np.log(RANGE)
    for _ in range(22):  # to 5 digits
        middle = (low + high) / 2
        softened = apply_temperature(probabilities, np.exp(middle))
        if (softened * logs).sum(axis=-1).mean() > of_label:
            low = middle
        else:
            high = middle
    temperature = round(float(np.exp(high)), 4)
    better = log_loss(ONE_CLASS, apply_temperature(probabilities, temperature), labels)
    return temperature if better < log_loss(ONE_CLASS, probabilities, labels) else 1.0
