"""The cells that stand for a prediction in a table."""

import numpy as np

from sentiment_jax.config.schema import CLASSES
from sentiment_jax.storage.prediction_table import prediction_cells, prediction_columns


def test_predictions_in_a_table():
    """Two classes keep their columns; the names of others stand in the cells."""
    two = np.float32([[0.25, 0.75], [0.5, 0.5]])
    assert prediction_columns(CLASSES) == ["predicted", "p_positive"]
    assert prediction_cells(CLASSES, two) == [[1, "0.750000"], [0, "0.500000"]]
    assert prediction_cells(("bad", "good"), two)[0] == ["good", "0.750000"]
    stars = ("-1", "0", "01")
    three = np.float32([[0.25, 0.25, 0.5], [0.5, 0.5, 0]])
    assert prediction_columns(stars) == ["predicted", "p_-1", "p_0", "p_01"]
    assert prediction_cells(stars, three) == [
        ["01", "0.250000", "0.250000", "0.500000"],
        [-1, "0.500000", "0.500000", "0.000000"],
    ]
