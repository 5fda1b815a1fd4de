"""The objective of multi-label classification: a sigmoid per label."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Num

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.training.objectives.classification import Classification, balance
from sentiment_jax.training.objectives.objective import Batch


class BinaryCrossEntropy(Classification):
    """Binary cross-entropy with the labels, or with a teacher's probabilities of them."""

    @staticmethod
    def balanced_weights(labels: Bool[np.ndarray, "texts classes"]) -> tuple[Any, ...]:
        """Return the weights of not having each label, and those of having it."""
        having = labels.sum(axis=0)
        counts = np.stack([len(labels) - having, having], axis=1)
        return tuple(zip(*map(balance, counts), strict=True))

    def score(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        """Return each row's loss, and whether all its labels are correct."""
        targets = batch.get("targets", batch["labels"])
        correct = jnp.all((logits > 0) == (targets > 0.5), axis=-1)
        return binary_cross_entropy(logits, targets, self.class_weights or (1.0, 1.0)), correct

    def probabilities(self, logits: Array) -> Array:
        """Return the probabilities of the labels."""
        return jax.nn.sigmoid(logits)

    def log_odds(self, logits: Array, towards: Any) -> Array:
        """Return the log-odds of a label."""
        return logits[:, towards]

    def outcomes(self, classes: int) -> int:
        """Return the outcomes of a decision: a text has a label or not."""
        return 2


def binary_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Num[Array, "*batch classes"] | Bool[Array, "*batch classes"],
    weights: Any = (1.0, 1.0),
) -> Float[Array, "*batch"]:
    """Return the mean over the labels of their losses, in float32 nats.

    The labels, or probabilities of them, are multiplied by the `weights` of not having a label and
    of having it.
    """
    without, having = map(jnp.asarray, weights)
    shares = jnp.stack([(1 - labels) * without, labels * having], axis=-1)
    logits = jnp.stack([jnp.zeros_like(logits), logits], axis=-1).astype(jnp.float32)
    return jnp.mean(optax.softmax_cross_entropy(logits, shares), axis=-1)


def loss_of(data: DataConfig) -> Classification:
    """Return the loss of a config's kind of labels, without class weights."""
    return BinaryCrossEntropy() if data.multi_label else Classification()
