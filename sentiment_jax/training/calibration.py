"""Temperature scaling, a scalar fitted on validation: Guo et al. (2017), arXiv:1706.04599."""

import numpy as np
from jaxtyping import Float, Int32

RANGE = (0.1, 10.0)  # of temperatures
LEAST = np.finfo(np.float32).tiny  # a probability that was rounded to 0


def apply_temperature(
    probabilities: Float[np.ndarray, "*any reviews classes"], temperature: float
) -> Float[np.ndarray, "*any reviews classes"]:
    """Return softmax(log p / temperature): the logits' own, as a constant per row cancels.

    In float64, where the order of two probabilities that hardly differ stays what it was.
    """
    if temperature == 1:
        return probabilities
    scaled = np.log(np.maximum(probabilities, LEAST, dtype=np.float64)) / temperature
    scaled -= scaled.max(axis=-1, keepdims=True)
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_loss(
    probabilities: Float[np.ndarray, "reviews classes"], labels: Int32[np.ndarray, " reviews"]
) -> float:
    """Return the mean of -log p(label), in nats."""
    of_label = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.maximum(of_label, LEAST)).mean())


def fit_temperature(
    probabilities: Float[np.ndarray, "reviews classes"], labels: Int32[np.ndarray, " reviews"]
) -> float:
    """Return the temperature that minimizes the log loss, or 1.0 where none is better than that.

    The loss is convex in 1 / temperature: its slope is halved to 0 between the ends of RANGE.
    """
    logs = np.log(np.maximum(probabilities, LEAST, dtype=np.float64))
    of_label = logs[np.arange(len(labels)), labels].mean()
    low, high = np.log(RANGE)
    for _ in range(20):  # to 5 digits
        middle = (low + high) / 2
        softened = apply_temperature(probabilities, np.exp(middle))
        too_cold = (softened * logs).sum(axis=-1).mean() > of_label
        low, high = (middle, high) if too_cold else (low, middle)
    temperature = round(float(np.exp(high)), 4)
    better = log_loss(apply_temperature(probabilities, temperature), labels)
    return temperature if better < log_loss(probabilities, labels) else 1.0
