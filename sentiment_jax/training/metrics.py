"""Figures that tell the truth where classes are unequal, or many: one dict, one function."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sentiment_jax.data.labels import decide

OF_A_CLASS = ("precision", "recall", "f1", "examples")


def measure(
    labels: Int[np.ndarray, " reviews"],
    probabilities: Float[np.ndarray, "reviews classes"],
    names: Sequence[str],
) -> dict[str, Any]:
    """Return what scikit-learn says of the verdicts, JSON-able, and accuracy's 95 % interval.

    Log loss in nats. The Brier score is halved for two classes, where it is (p - label)². The AUC
    is None unless there are two classes and both occur. What would be 0/0 is 0. Written out, since
    importing scikit-learn takes longer (1.7 s) than many a training; a test compares the two.
    """
    verdicts, total = decide(probabilities), len(labels)
    confusion = np.zeros((len(names), len(names)))
    np.add.at(confusion, (labels, verdicts), 1)
    right, counts, judged = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = right / np.maximum(judged, 1), right / np.maximum(counts, 1)
    f1 = 2 * right / np.maximum(counts + judged, 1)
    spread = np.sqrt((total**2 - counts @ counts) * (total**2 - judged @ judged))
    of_label = probabilities[np.arange(total), labels]
    least = np.finfo(of_label.dtype).eps
    distances = np.sum((probabilities - np.eye(len(names))[labels]) ** 2, axis=1)
    rows = zip(precision.tolist(), recall.tolist(), f1.tolist(), map(int, counts), strict=True)
    return {
        "accuracy_interval": [*wilson_interval(float(np.mean(verdicts == labels)), total)],
        "majority_baseline": float(np.max(counts)) / total,
        "balanced_accuracy": float(recall[counts > 0].mean()),
        "macro_f1": float(f1.mean()),
        "mcc": float((right.sum() * total - counts @ judged) / spread) if spread else 0.0,
        "auc": area_under_curve(labels, probabilities[:, 1]) if len(names) == 2 else None,
        "log_loss": float(-np.log(np.clip(of_label, least, 1 - least)).mean(dtype=np.float64)),
        "brier_score": float(distances.mean()) / (2 if len(names) == 2 else 1),
        "classes": {
            name: dict(zip(OF_A_CLASS, row, strict=True))
            for name, row in zip(names, rows, strict=True)
        },
    }


def area_under_curve(
    labels: Int[np.ndarray, " reviews"], p_positive: Float[np.ndarray, " reviews"]
) -> float | None:
    """Return how often a positive review scores higher than a negative one, ties counted half.

    None if either kind is absent. By ranks: Mann and Whitney (1947).
    """
    positives = int(labels.sum())
    pairs = positives * (len(labels) - positives)
    _, place, ties = np.unique(p_positive, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(ties) - (ties - 1) / 2)[place]
    above = ranks[labels == 1].sum() - positives * (positives + 1) / 2
    return float(above / pairs) if pairs else None


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: Wilson (1927).

    Written out, as the share may be a mean over seeds: scipy's `binomtest` wants whole counts.
    """
    z = NormalDist().inv_cdf(0.975)
    center = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(float(center - half), mean), max(float(center + half), mean)
