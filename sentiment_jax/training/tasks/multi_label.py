"""Multi-label classification: a sigmoid, a threshold and a temperature per label.

What differs from one class per text is here, in models/outputs.py and in data/kinds.py.
"""

import dataclasses
from typing import Any

import numpy as np

from sentiment_jax.data.kinds import Labels, Probabilities, rank_positive
from sentiment_jax.data.labels import apart
from sentiment_jax.training.experiment import Experiment, Task
from sentiment_jax.training.metrics import fit_temperature
from sentiment_jax.training.tasks.classification import CLASSIFICATION

FEW = 10  # validation texts with a label, or without: too few to choose its threshold by


def fit(labels: Labels, probabilities: Probabilities) -> dict[str, Any]:
    """Return the temperature of each label, and the threshold of its best F1 (.5 of FEW).

    A threshold is halfway to the next lower probability.
    """
    thresholds = []
    for positive, p in zip(labels.T, probabilities.astype(np.float64).T, strict=True):
        found, above, hits = rank_positive(positive, p)
        if min(len(found), len(p) - len(found)) < FEW:
            thresholds.append(0.5)
            continue
        best = found[np.argmax(hits / (above + len(found)))]
        thresholds.append(float(best + p.max(initial=0, where=p < best)) / 2)
    having = (np.stack([~of, of], axis=-1) for of in labels.T)
    temperatures = map(fit_temperature, apart(probabilities), having)
    return {"temperature": [*temperatures], "thresholds": thresholds}


def prepare(*given: Any, **named: Any) -> Experiment:
    """Read and encode texts, as classification does."""
    return dataclasses.replace(CLASSIFICATION.prepare(*given, **named), task=MULTI_LABEL)


MULTI_LABEL = dataclasses.replace(
    CLASSIFICATION,
    prepare=prepare,
    fit=fit,
    probe_weight=40.0,
    describe_scores=lambda config, scores: f" macro F1 {scores['macro_f1']:.4f}",
)


def task_of(config: Any) -> Task:
    """Return the task of learning from labeled texts, by its config, which may be a recipe."""
    multi_label = config.data.label_separator or config.data.label_columns
    return MULTI_LABEL if multi_label else CLASSIFICATION
