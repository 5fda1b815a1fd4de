"""Several labels per text, or none: a sigmoid, a threshold and a temperature per label.

What differs from one class per text is here, and where arrays of labels have a second axis, a 0 or
1 per label: objective.cross_entropy, balanced_weights, metrics.measure, labels.decide.
"""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sentiment_jax.data.labels import apart
from sentiment_jax.training.experiment import Experiment, Task
from sentiment_jax.training.metrics import fit_temperature, rank_positive
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import Batch, cross_entropy
from sentiment_jax.training.tasks.classification import CLASSIFICATION, make_objective

FEW = 10  # validation texts with a label, or without: too few to choose its threshold by


class BinaryCrossEntropy(Classification):
    """Binary cross-entropy with the labels, or with a teacher's probabilities of them."""

    def score(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        """Return each row's loss, and whether all its labels are correct."""
        targets = batch.get("targets", batch["labels"])
        correct = jnp.all((logits > 0) == (targets > 0.5), axis=-1)
        return cross_entropy(logits, targets, self.class_weights or (1.0, 1.0)), correct


def fit(
    labels: Int[np.ndarray, "texts labels"], probabilities: Float[np.ndarray, "texts labels"]
) -> dict[str, Any]:
    """Return the temperature of each label, and the threshold of its best F1 (.5 of FEW).

    A threshold is halfway to the next lower probability.
    """
    thresholds = []
    for positive, p in zip((labels > 0).T, probabilities.astype(np.float64).T, strict=True):
        found, above, hits = rank_positive(positive, p)
        if min(len(found), len(p) - len(found)) < FEW:
            thresholds.append(0.5)
            continue
        best = found[np.argmax(hits / (above + len(found)))]
        thresholds.append(float(best + p.max(initial=0, where=p < best)) / 2)
    temperatures = map(fit_temperature, apart(probabilities), labels.T)
    return {"temperature": [*temperatures], "thresholds": thresholds}


def prepare(*given: Any, **named: Any) -> Experiment:
    """Read and encode texts, as classification does."""
    return dataclasses.replace(CLASSIFICATION.prepare(*given, **named), task=SEVERAL_LABELS)


SEVERAL_LABELS = dataclasses.replace(
    CLASSIFICATION,
    prepare=prepare,
    make_objective=functools.partial(make_objective, kind=BinaryCrossEntropy),
    fit=fit,
    describe_scores=lambda config, scores: f" macro F1 {scores['macro_f1']:.4f}",
)


def task_of(config: Any) -> Task:
    """Return the task of learning from labeled texts, by its config, which may be a recipe."""
    several = config.data.label_separator or config.data.label_columns
    return SEVERAL_LABELS if several else CLASSIFICATION
