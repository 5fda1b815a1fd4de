"""TODO training.objectives.classification."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sentiment_jax.config.schema import LossConfig
from sentiment_jax.training import regularizers
from sentiment_jax.training.objectives.objective import cross_entropy, forward


@dataclasses.dataclass(frozen=True)
class Classification:
    """The objective of fine-tuning: cross-entropy, times its class's weight if there are any.

    Rows whose label is -1 have none: they count in the regularizers alone. Where a batch has
    `targets`, distributions over the classes, the cross-entropy is with these.
    """

    class_weights: tuple[float, ...] = ()
    regularizers: LossConfig = LossConfig()

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over the batch's valid rows."""
        token_ids, weights, labels = batch["token_ids"], batch["weights"], batch["labels"]
        labeled, labels = weights * (labels >= 0), jnp.maximum(labels, 0)
        dropout = None if deterministic else key

        def classify(params: Any, *perturbation: Array) -> Array:
            inputs = token_ids, batch["lengths"], *perturbation
            return forward(model, params, *inputs, dropout=dropout)

        def score(logits: Array) -> Array:
            if "targets" in batch:
                shares = batch["targets"] * jnp.array(self.class_weights or 1.0)
                return optax.softmax_cross_entropy(logits.astype(jnp.float32), shares)
            losses = cross_entropy(logits, labels)
            return losses * jnp.array(self.class_weights)[labels] if self.class_weights else losses

        logits = classify(params)
        losses = score(logits)
        examples = jnp.maximum(jnp.sum(labeled), 1e-6)  # no row may have a label
        more = self.regularizers
        of_all: list[Array] = []  # losses of every row, with a label or without
        if more.adversarial or more.virtual_adversarial:
            zeros = jnp.zeros((*token_ids.shape[:2], model.config.embedding_size))
        if more.adversarial:
            losses += regularizers.adversarial(classify, params, score, zeros, more.adversarial)
        if more.virtual_adversarial:
            of_step = more.virtual_adversarial, jax.random.fold_in(key, 1)
            of_all.append(
                regularizers.virtual_adversarial(classify, params, logits, zeros, *of_step)
            )
        if more.entropy:
            of_all.append(more.entropy * regularizers.entropy(logits))
        loss = jnp.sum(losses * labeled)
        if of_all:  # their mean over all rows, beside the labeled rows' mean
            rows = jnp.maximum(jnp.sum(weights), 1e-6)  # a part of a batch may have none
            loss += examples / rows * jnp.sum(sum(of_all) * weights)
        correct = jnp.sum((jnp.argmax(logits, axis=-1) == labels) * labeled)
        return {"loss": loss, "correct": correct, "examples": examples}


CLASSIFICATION = Classification()
