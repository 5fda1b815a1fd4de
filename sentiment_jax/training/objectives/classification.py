"""The objective of training on labels: cross-entropy with classes or soft targets."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int32

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
        labeled = batch["labels"].reshape(len(batch["labels"]), -1)[:, 0] >= 0  # -1: by nobody
        weights = batch["weights"] * labeled
        dropout = None if deterministic else key
        batch = {**batch, "weights": weights}
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

    def score(self, logits: Array, batch: Batch) -> tuple[Array, Array]:
        """Return each row's loss, and whether the classification is correct."""
        labels = jnp.maximum(batch["labels"], 0)
        if "targets" in batch:
            shares = batch["targets"] * jnp.array(self.class_weights or 1.0)
            losses = optax.softmax_cross_entropy(logits.astype(jnp.float32), shares)
        else:
            losses = cross_entropy(logits, labels)
            if self.class_weights:
                losses *= jnp.array(self.class_weights)[labels]
        return losses, jnp.argmax(logits, axis=-1) == labels


def balanced_weights(labels: Int32[np.ndarray, "texts *labels"], classes: int) -> tuple[Any, ...]:
    """Return class weights inversely proportional to class frequencies; their mean is 1.

    As scikit-learn's "balanced", which requires that every class occurs. A label of -1, of a text
    that no teacher has labeled yet, does not count. Of several labels, the weights are those of not
    having each, and those of having it.
    """
    if labels.ndim == 2:
        return tuple(zip(*(balanced_weights(of, 2) for of in labels.T), strict=True))
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    return tuple((counts.sum() / (classes * np.maximum(counts, 1))).tolist())
