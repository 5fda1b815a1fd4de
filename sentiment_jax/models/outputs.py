"""What logits mean: a softmax over classes, or a sigmoid for each label of multi-label texts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Num

from sentiment_jax.config.schema import DataConfig


@dataclass(frozen=True)
class Softmax:
    """One class per text."""

    @staticmethod
    def balanced_weights(labels: Bool[np.ndarray, "texts classes"]) -> tuple[Any, ...]:
        """Return the weights of the classes, by their frequencies."""
        return balance(labels.sum(axis=0))

    def score(
        self, logits: Array, batch: Mapping[str, Array], class_weights: tuple[Any, ...] = ()
    ) -> tuple[Array, Array]:
        """Return each row's cross-entropy, and whether the classification is correct.

        Where a batch has `targets`, distributions over the classes, it is that with these
        (distillation: Hinton et al., 2015, https://arxiv.org/abs/1503.02531).
        """
        labels = jnp.argmax(batch["labels"], axis=-1)
        logits = logits.astype(jnp.float32)
        if "targets" in batch:
            shares = batch["targets"] * jnp.array(class_weights or 1.0)
            losses = optax.softmax_cross_entropy(logits, shares)
        else:
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            if class_weights:
                losses *= jnp.array(class_weights)[labels]
        return losses, jnp.argmax(logits, axis=-1) == labels

    def probabilities(self, logits: Array) -> Array:
        """Return the probabilities of the classes."""
        return jax.nn.softmax(logits)

    def log_odds(self, logits: Array, towards: Any) -> Array:
        """Return the log-odds of a class against all others."""
        others = jnp.where(jnp.arange(logits.shape[1]) == towards, -jnp.inf, logits)
        return logits[:, towards] - jax.nn.logsumexp(others, axis=1)

    def outcomes(self, classes: int) -> int:
        """Return the outcomes of a decision."""
        return classes


class Sigmoids(Softmax):
    """Several labels per text, or none: a decision for each."""

    @staticmethod
    def balanced_weights(labels: Bool[np.ndarray, "texts classes"]) -> tuple[Any, ...]:
        """Return the weights of not having each label, and those of having it."""
        having = labels.sum(axis=0)
        counts = np.stack([len(labels) - having, having], axis=1)
        return tuple(zip(*map(balance, counts), strict=True))

    def score(
        self, logits: Array, batch: Mapping[str, Array], class_weights: tuple[Any, ...] = ()
    ) -> tuple[Array, Array]:
        """Return each row's binary cross-entropy with labels or targets; if all are correct."""
        targets = batch.get("targets", batch["labels"])
        correct = jnp.all((logits > 0) == (targets > 0.5), axis=-1)
        return binary_cross_entropy(logits, targets, class_weights or (1.0, 1.0)), correct

    def probabilities(self, logits: Array) -> Array:
        """Return the probabilities of the labels."""
        return jax.nn.sigmoid(logits)

    def log_odds(self, logits: Array, towards: Any) -> Array:
        """Return the log-odds of a label."""
        return logits[:, towards]

    def outcomes(self, classes: int) -> int:
        """Return the outcomes of a decision: a text has a label or not."""
        return 2


SOFTMAX = Softmax()
SIGMOIDS = Sigmoids()


def output_of(data: DataConfig) -> Softmax:
    """Return what the logits mean for the labels of a config."""
    return SIGMOIDS if data.multi_label else SOFTMAX


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


def balance(counts: Int[np.ndarray, " classes"]) -> tuple[float, ...]:
    """Return class weights inversely proportional to class frequencies; their mean is 1.

    As scikit-learn's "balanced", which requires that every class occurs.
    """
    return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
