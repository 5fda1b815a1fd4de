"""TODO storage.selection."""

from collections.abc import Mapping
from typing import Any


def validation_rank(scores: Mapping[str, Any]) -> tuple[float, float]:
    """What "best" means: validation accuracy, ties by the lower loss.

    Balanced accuracy where the scores have it: those of a run whose class weights are balanced. A
    pre-training's are ranked by the loss.
    """
    if "perplexity" in scores:
        return -scores["loss"], 0.0
    return scores.get("balanced_accuracy", scores["accuracy"]), -scores["loss"]
