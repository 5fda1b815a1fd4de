"""The tasks: classification of labeled reviews, several labels per review, pre-training."""

from typing import Any

from sentiment_jax.training.experiment import Task
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.tasks.several_labels import SEVERAL_LABELS


def task_of(config: Any) -> Task:
    """Return the task of learning from labeled reviews: one label each, or several."""
    several = config.data.label_separator or config.data.label_columns
    return SEVERAL_LABELS if several else CLASSIFICATION
