"""The rule that chooses the best epoch (`Progress.end_epoch`), the best trial and a report's order.

The highest validation accuracy wins; of equal ones, the lowest validation loss. `select_by` names
the loss or another metric to come first; with `last`, no epoch but the last one is a candidate.
Macro F1 takes the accuracy's place where a class is rare or a text may have several labels, and the
balanced accuracy where class weights are balanced. Pre-training is
ranked by its validation loss alone. A loss that is not finite never wins. Of equal epochs the
newest is the best, of equal trials the first. Without held-out texts, the newest epoch is.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sentiment_jax.config.schema import Config

WORST = (-math.inf, -math.inf)  # the rank of what can't be the best


@dataclasses.dataclass(frozen=True)
class Ranking:
    """An order of validations: by the first metric, and where that is equal, by the next."""

    by: tuple[str, ...]
    last: bool = False  # of epochs, the last one is taken; the order is that of trials

    @classmethod
    def of(cls, config: Config) -> "Ranking":
        """Return the ranking that a training on labels is configured with."""
        last = config.select_by == "last"
        first = config.accuracy if last or config.select_by == "accuracy" else config.select_by
        return cls((first, config.accuracy if first == "loss" else "loss"), last)

    def key(self, scores: Mapping[str, Any] | None) -> tuple[float, ...]:
        """Return the sort key of a validation's scores: the greater, the better."""
        if scores is None or not math.isfinite(scores["loss"]):
            return WORST
        found = {name: scores.get(name) for name in self.by}
        values = {name: -math.inf if value is None else value for name, value in found.items()}
        return tuple(-value if name == "loss" else value for name, value in values.items())


BY_ACCURACY = Ranking(("accuracy", "loss"))
BY_LOSS = Ranking(("loss",))
