"""The objective of training on labels: cross-entropy with labels or soft targets."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from sentiment_jax.models.outputs import SOFTMAX, Softmax
from sentiment_jax.training.objectives.contrastive import contrastive_loss
from sentiment_jax.training.objectives.objective import Batch, classify, classify_with_features


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross-entropy, times the weight of a text's class if classes have weights."""

    class_weights: tuple[Any, ...] = ()
    contrastive: float = 0.0  # the weight of contrastive.contrastive_loss
    output: Softmax = SOFTMAX

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return the sums over the batch's valid rows."""
        weights = batch["weights"]
        dropout = None if deterministic else key
        added = {}
        if self.contrastive:
            logits, features = classify_with_features(model, params, batch, dropout)
            losses = contrastive_loss(features, batch["labels"], weights)
            added = {"contrastive": self.contrastive * jnp.sum(losses)}
        else:
            logits = classify(model, params, batch, dropout)
        losses, correct = self.output.score(logits, batch, self.class_weights)
        return {
            "loss": jnp.sum(losses * weights),
            "correct": jnp.sum(correct * weights),
            "examples": jnp.maximum(jnp.sum(weights), 1e-6),  # a part of a batch may have none
            **added,
        }
