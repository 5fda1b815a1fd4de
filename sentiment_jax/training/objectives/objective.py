"""TODO training.objectives.objective."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

# (model, params, batch, key, deterministic) -> sums over the batch, by name: `loss`, which training
# minimizes, divided by the number of `examples`, of which `correct` were right; others as it likes.
# One that has `descend` moves parameters itself: (params, batch, key, learning_rate) -> (params,
# sums and the two norms of make_train_step).
Objective = Callable[..., dict[str, Array]]


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Return the loss of every row, in float32 nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def forward(
    model: nn.Module,
    params: Any,
    token_ids: Int[Array, "batch length *lengths"],
    lengths: Int[Array, " batch"],
    *inputs: Any,
    dropout: Array | None = None,
) -> Any:
    """Return what a model makes of a batch; `dropout` is a key, or None to go without.

    `inputs` are what a model takes beside tokens and lengths: in pre-training, or a perturbation.
    """
    variables, rngs = {"params": params}, {} if dropout is None else {"dropout": dropout}
    deterministic = dropout is None
    return model.apply(
        variables, token_ids, lengths, *inputs, deterministic=deterministic, rngs=rngs
    )
