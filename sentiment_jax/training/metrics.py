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
    is None unless there are two classes and both occur. What would be 0/0 is 0.
    """
    from sklearn import metrics  # takes a second, with pandas: not at the start

    verdicts, numbers = decide(probabilities), np.arange(len(names))
    precision, recall, f1, counts = metrics.precision_recall_fscore_support(
        labels, verdicts, labels=numbers, zero_division=0.0
    )
    both, varied = len(names) == 2 and counts.all(), len({*labels, *verdicts}) > 1
    distances = np.sum((probabilities - np.eye(len(names))[labels]) ** 2, axis=1)
    columns = precision.tolist(), recall.tolist(), f1.tolist(), counts.tolist()
    return {
        "accuracy_interval": [*wilson_interval(float(np.mean(verdicts == labels)), len(labels))],
        "majority_baseline": int(counts.max()) / len(labels),
        "balanced_accuracy": float(recall[counts > 0].mean()),
        "macro_f1": float(f1.mean()),
        "mcc": float(metrics.matthews_corrcoef(labels, verdicts)) if varied else 0.0,
        "auc": float(metrics.roc_auc_score(labels, probabilities[:, 1])) if both else None,
        "log_loss": float(metrics.log_loss(labels, probabilities, labels=numbers)),
        "brier_score": float(distances.mean()) / (2 if len(names) == 2 else 1),
        "classes": {
            name: dict(zip(OF_A_CLASS, row, strict=True))
            for name, *row in zip(names, *columns, strict=True)
        },
    }


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: Wilson (1927).

    Written out, as the share may be a mean over seeds: scipy's `binomtest` wants whole counts.
    """
    z = NormalDist().inv_cdf(0.975)
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(float(centre - half), mean), max(float(centre + half), mean)
