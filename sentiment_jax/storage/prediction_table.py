"""Predictions as cells of a table: in predictions.csv, from --mode=predict and from Python."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sentiment_jax.config.schema import CLASSES
from sentiment_jax.data.labels import decide


def class_cells(classes: Sequence[str]) -> list[int | str]:
    """Return the cells that stand for the classes in a table: their names, or 0 and 1."""
    if tuple(classes) == CLASSES:
        return [0, 1]
    return [int(name) if re.fullmatch(r"0|-?[1-9]\d*", name) else name for name in classes]


def prediction_columns(classes: Sequence[str]) -> list[str]:
    """Return the headings of `prediction_cells`."""
    return ["predicted", *(["p_positive"] if len(classes) == 2 else [f"p_{c}" for c in classes])]


def prediction_cells(
    classes: Sequence[str], probabilities: Float[np.ndarray, "reviews classes"]
) -> list[list[int | str]]:
    """Return predicted class and probabilities of each review: of two classes, the second's."""
    names = class_cells(classes)
    first = 1 if len(classes) == 2 else 0
    predicted = zip(decide(probabilities).tolist(), probabilities.tolist(), strict=True)
    return [[names[i], *(f"{p:.6f}" for p in row[first:])] for i, row in predicted]
