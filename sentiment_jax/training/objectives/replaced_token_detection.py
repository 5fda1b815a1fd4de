"""Replaced token detection: ELECTRA's objective (Clark et al., 2020, arXiv:2003.10555).

A generator, trained with the discriminator by masked language modeling, fills in the masked tokens;
the discriminator predicts which tokens are not the original ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sentiment_jax.training.objectives.masked_language_modeling import (
    MaskedLanguageModeling,
    draw_rows,
    mean_nats,
    put_tokens,
    score_tokens,
)
from sentiment_jax.training.objectives.objective import Batch, forward

DETECTION_WEIGHT = 50.0  # of the discriminator's mean loss beside the generator's


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection(MaskedLanguageModeling):
    """Detect tokens that a generator has drawn from its predictions of masked tokens."""

    hidden: float = 0.85
    replaced: float = 0.0

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return the sums over all tokens; nats and predictions are the generator's."""
        masking, drawing, dropout_key = jax.random.split(key, 3)
        dropout = None if deterministic else dropout_key
        token_ids = batch["token_ids"]
        lengths = batch["lengths"]
        masked, positions, weights = self.mask_batch(batch, masking)

        def corrupt(logits: Float[Array, "batch masked vocabulary"]) -> Array:
            noise = draw_rows(drawing, batch["numbers"], logits.shape[1:])
            gumbel = -jnp.log(-jnp.log(noise))
            drawn = jnp.argmax(jax.lax.stop_gradient(logits) + gumbel, axis=-1)
            kept = jnp.take_along_axis(token_ids, positions, axis=1)
            return put_tokens(token_ids, positions, jnp.where(weights > 0, drawn, kept))

        outputs = forward(model, params, masked, lengths, positions, corrupt, dropout=dropout)
        predicted, detected, read = outputs
        valid = (jnp.arange(token_ids.shape[1]) < lengths[:, None]) * batch["weights"][:, None]
        generated = score_tokens(predicted, token_ids, positions, weights)
        replaced = read != token_ids
        losses = optax.sigmoid_binary_cross_entropy(detected, replaced.astype(jnp.float32))
        detection = jnp.sum(losses * valid)
        correct = jnp.sum(((detected > 0) == replaced) * valid)
        examples = jnp.sum(valid)
        ratio = examples / generated["examples"]
        return {
            "loss": ratio * generated["loss"] + DETECTION_WEIGHT * detection,
            "correct": correct,
            "examples": examples,
            "detection": detection,
            "nats": generated["loss"],
            "predictions": generated["examples"],
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the generator's loss per prediction plus 50 times the detection's per token."""
        return mean_nats(sums) + DETECTION_WEIGHT * sums["detection"] / sums["examples"]
