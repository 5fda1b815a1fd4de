"""The rule that chooses the best epoch of a run and the best trial of a sweep.

The highest validation accuracy wins; of equal ones, the lowest validation loss. `select_by` names
the loss or another metric to come first. Where class weights are balanced, the balanced accuracy
takes the accuracy's place. Pre-training is ranked by its validation loss alone. A loss that is not
finite never wins. Of equal epochs the newest is the best, of equal trials the first. Without
held-out reviews, the newest epoch is the best.
"""

import math
from collections.abc import Mapping
from typing import Any

WORST = (-math.inf, -math.inf)  # the rank of what can't be the best


def validation_rank(scores: Mapping[str, Any] | None, select_by: str) -> tuple[float, ...]:
    """Return the sort key of a validation's scores: the greater, the better."""
    if scores is None or not math.isfinite(scores["loss"]):
        return WORST
    if "perplexity" in scores:  # of a pre-training
        return -scores["loss"], 0.0
    accuracy = scores.get("balanced_accuracy", scores["accuracy"])
    if select_by == "loss":
        return -scores["loss"], accuracy
    metric = accuracy if select_by == "accuracy" else scores[select_by]
    return -math.inf if metric is None else metric, -scores["loss"]
