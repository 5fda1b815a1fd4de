"""The supervised contrastive loss of features, which may be added to the cross-entropy.

Khosla et al. (2020), https://arxiv.org/abs/2004.11362; for the fine-tuning of encoders: Gunel et
al. (2021), https://arxiv.org/abs/2011.01403.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

TEMPERATURE = 0.1
EXACT = jax.lax.Precision.HIGHEST


def contrastive_loss(
    features: Float[Array, "batch width"],
    labels: Bool[Array, "batch classes"],
    weights: Float[Array, " batch"],
) -> Float[Array, " batch"]:
    """Return each text's loss, in nats: 0 if no other text of the batch has its labels.

    The loss is the mean, over the other texts with the same labels, of their negative
    log-probability under a softmax of the cosines with all others, divided by the temperature.
    Of multi-label texts, the same means all labels. Texts of weight 0 do not count, and classes
    have no weights.
    """
    features = features * jax.lax.rsqrt(jnp.sum(features**2, axis=-1, keepdims=True) + 1e-6)
    cosines = jnp.matmul(features, features.T, precision=EXACT)
    rows = weights > 0
    others = rows[:, None] & rows & ~jnp.eye(len(rows), dtype=bool)
    scores = jnp.where(others, cosines / TEMPERATURE, -jnp.inf)
    # Without any other text, all scores are infinite, and so would be the gradient.
    alone = ~jnp.any(others, axis=-1, keepdims=True)
    log_shares = nn.log_softmax(jnp.where(alone, 0.0, scores))
    same = others & jnp.all(labels[:, None] == labels[None], axis=-1)
    total = jnp.sum(jnp.where(same, -log_shares, 0.0), axis=-1)
    return weights * total / jnp.maximum(jnp.sum(same, axis=-1), 1)
