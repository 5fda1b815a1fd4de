"""The objective of training on labels: cross-entropy with classes or soft targets."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from sentiment_jax.training.objectives.contrastive import classify_and_contrast
from sentiment_jax.training.objectives.objective import Batch, cross_entropy


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy, times the weight of a text's class if classes have weights.

    Where a batch has `targets`, distributions over the classes, the cross-entropy is with these
    (distillation: Hinton et al., 2015, https://arxiv.org/abs/1503.02531).
    """

    class_weights: tuple[Any, ...] = ()
    contrastive: float = 0.0  # the weight of contrastive.contrastive_loss

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return the sums over the batch's valid rows."""
        weights = batch["weights"]
        dropout = None if deterministic else key
        logits, added = classify_and_contrast(
            model, params, batch, dropout, weight=self.contrastive
        )
        losses, correct = self.score(logits, batch)
        return {
            "loss": jnp.sum(losses * weights),
            "correct": jnp.sum(correct * weights),
            "examples": jnp.maximum(jnp.sum(weights), 1e-6),  # a part of a batch may have none
            **added,
        }

    @staticmethod
    def balanced_weights(labels: Bool[np.ndarray, "texts classes"]) -> tuple[Any, ...]:
        """Return the weights of the classes, by their frequencies."""
        return balance(labels.sum(axis=0))

    def score(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        """Return each row's loss, and whether the classification is correct."""
        labels = jnp.argmax(batch["labels"], axis=-1)
        if "targets" in batch:
            shares = batch["targets"] * jnp.array(self.class_weights or 1.0)
            losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), shares)
        else:
            losses = cross_entropy(logits, labels)
            if self.class_weights:
                losses *= jnp.array(self.class_weights)[labels]
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


def balance(counts: Int[np.ndarray, " classes"]) -> tuple[float, ...]:
    """Return class weights inversely proportional to class frequencies; their mean is 1.

    As scikit-learn's "balanced", which requires that every class occurs.
    """
    return tuple((counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist())
