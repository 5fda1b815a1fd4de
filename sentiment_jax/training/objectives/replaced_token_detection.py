"""TODO training.objectives.replaced_token_detection."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from sentiment_jax.training.objectives.masked_language_modeling import (
    MaskedLanguageModeling,
    draw_rows,
    mean_nats,
    put_tokens,
    score_tokens,
)
from sentiment_jax.training.objectives.objective import forward

DETECTION_WEIGHT = 50.0  # of the discriminator's mean loss beside the generator's


@dataclasses.dataclass(frozen=True)
class ReplacedTokenDetection(MaskedLanguageModeling):
    """Tell which tokens are not the text's, but drawn by a generator that predicts masked words."""

    hidden: float = 0.85
    replaced: float = 0.0

    def __call__(
        self,
        model: nn.Module,
        params: Any,
        batch: dict[str, Array],
        key: Array,
        deterministic: bool = False,
    ) -> dict[str, Array]:
        """Return the sums over all tokens; nats and predictions are the generator's."""
        masking, drawing, dropout = jax.random.split(key, 3)
        token_ids, lengths = batch["token_ids"], batch["lengths"]
        masked, positions, weights = self.mask_batch(batch, masking)

        def corrupt(logits: Float[Array, "batch chosen vocabulary"]) -> Array:
            noise = draw_rows(drawing, batch["labels"], logits.shape[1:])
            gumbel = -jnp.log(-jnp.log(noise))
            drawn = jnp.argmax(jax.lax.stop_gradient(logits) + gumbel, axis=-1)
            kept = jnp.take_along_axis(token_ids, positions, axis=1)
            return put_tokens(token_ids, positions, jnp.where(weights > 0, drawn, kept))

        inputs = masked, lengths, positions, corrupt
        outputs = forward(model, params, *inputs, dropout=None if deterministic else dropout)
        predicted, detected, read = outputs
        of_text = (jnp.arange(token_ids.shape[1]) < lengths[:, None]) * batch["weights"][:, None]
        sums = score_tokens(predicted, token_ids, positions, weights)
        found = score_detection(detected, read != token_ids, of_text)
        ratio = found["examples"] / sums["examples"]
        return {
            **found,
            "loss": ratio * sums["loss"] + DETECTION_WEIGHT * found["loss"],
            "detection": found["loss"],
            "nats": sums["loss"],
            "predictions": sums["examples"],
        }

    @staticmethod
    def mean_loss(sums: Mapping[str, float]) -> float:
        """Return the generator's loss per prediction, and 50 times that of detection per token."""
        detection = DETECTION_WEIGHT * sums["detection"] / sums["examples"]
        return mean_nats(sums) + detection


def score_detection(
    logits: Float[Array, "batch length"],
    replaced: Bool[Array, "batch length"],
    weights: Float[Array, "batch length"],
) -> dict[str, Array]:
    """Return loss, correct and examples of telling which tokens were replaced."""
    losses = optax.sigmoid_binary_cross_entropy(logits, replaced.astype(jnp.float32))
    return {
        "loss": jnp.sum(losses * weights),
        "correct": jnp.sum(((logits > 0) == replaced) * weights),
        "examples": jnp.sum(weights),
    }
