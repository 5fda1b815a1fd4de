"""What every objective has in common: its interface, the forward pass, the cross-entropy."""

from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sentiment_jax.models.layers import FEATURES, Extent, Packing

Batch = dict[str, Array]  # token_ids, lengths, labels, weights, and targets if there are any


@runtime_checkable
class Objective(Protocol):
    """What a training minimizes: a function of model, parameters, batch and key.

    steps.make_train_step trains it by the gradient of its loss. Only NgramVectors has a step of its
    own, and can't compute a batch in parts.
    """

    def __hash__(self) -> int: ...  # steps are compiled once per objective

    def __call__(
        self, model: nn.Module, params: Any, batch: Batch, key: Array, deterministic: bool = False
    ) -> dict[str, Array]:
        """Return sums over the batch by name.

        They are `loss`, which training minimizes divided by the number of `examples`, of which
        `correct` were right; others as the objective likes. Training also minimizes a `contrastive`
        loss, if there is one; it is not logged, so that `loss` is that of validation. An objective
        of pre-training has the `nats` of all its `predictions` of tokens among them, for the
        perplexity.
        """
        ...


def cross_entropy(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Return the loss of every row, in float32 nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def forward(
    model: nn.Module,
    params: Any,
    token_ids: Int[Array, "rows length *ngrams"],
    extent: Extent,
    *inputs: Any,
    dropout: Array | None = None,
    mutable: Any = False,
) -> Any:
    """Apply a model to a batch; `dropout` is a key, or None for no dropout.

    `extent` has the lengths of the texts, or their packing; `inputs` are what a pre-training
    network takes besides; `mutable` names collections to return beside the outputs.
    """
    rngs = {} if dropout is None else {"dropout": dropout}
    given = (token_ids, extent, *inputs)
    plain = dropout is None
    return model.apply({"params": params}, *given, deterministic=plain, rngs=rngs, mutable=mutable)


def classify(model: nn.Module, params: Any, batch: Batch, dropout: Array | None) -> Array:
    """Return the logits [batch, classes] of the texts of a batch, packed or not."""
    return forward(model, params, batch["token_ids"], _extent(batch), dropout=dropout)


def classify_with_features(
    model: nn.Module, params: Any, batch: Batch, dropout: Array | None
) -> tuple[Array, Array]:
    """Return the logits, and what the last layer reads of each text [batch, features]."""
    logits, variables = forward(
        model, params, batch["token_ids"], _extent(batch), dropout=dropout, mutable=FEATURES[:1]
    )
    collection, name = FEATURES
    return logits, variables[collection][name][0]


def _extent(batch: Batch) -> Extent:
    if "segments" not in batch:
        return batch["lengths"]
    places = ("segments", "positions", "starts", "lengths")
    return Packing(**{name: batch[name] for name in places})
