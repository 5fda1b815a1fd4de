"""An LSTM review classifier; the defaults are the study's network.

Word embedding 100, one LSTM of 64 units, its state after the last valid word, dropout 0.3, a dense
layer of 128 with ReLU, two logits; Xavier initial weights. Pooling over all states and a second
direction follow Johnson & Zhang (2016), https://arxiv.org/abs/1602.02373.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

POOLINGS = ("last", "mean", "max", "mean_max")


@dataclasses.dataclass(frozen=True)
class LstmConfig:
    """Sizes and rates of an LstmClassifier; vocab_size comes from the tokenizer."""

    vocab_size: int
    embedding_size: int = 100
    hidden_size: int = 64
    dense_size: int = 128
    bidirectional: bool = False
    pooling: str = "last"
    embedding_dropout: float = 0.0
    output_dropout: float = 0.3
    dtype: str = "float32"


class ScannedLstm(nn.Module):
    """One direction of an LSTM: nn.scan over the cell, parameters shared by all positions."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "batch length features"]
    ) -> Float[Array, "batch length hidden"]:
        """Returns the hidden state after every position."""
        scanned_cell = nn.scan(
            nn.OptimizedLSTMCell,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        cell = scanned_cell(
            self.features,
            kernel_init=nn.initializers.xavier_uniform(),
            dtype=self.dtype,
            name="cell",
        )
        zeros = jnp.zeros((inputs.shape[0], self.features), self.dtype)
        _, states = cell((zeros, zeros), inputs)
        return states


def reverse_valid(
    inputs: Float[Array, "batch length features"], lengths: Int[Array, " batch"]
) -> Float[Array, "batch length features"]:
    """Reverses the first `lengths` positions of every row; the padding stays where it is."""
    position = jnp.arange(inputs.shape[1])
    source = jnp.where(position < lengths[:, None], lengths[:, None] - 1 - position, position)
    return jnp.take_along_axis(inputs, source[:, :, None], axis=1)


def pool(
    states: Float[Array, "batch length hidden"], lengths: Int[Array, " batch"], pooling: str
) -> Float[Array, "batch pooled"]:
    """Reduces the valid states of every row to one vector.

    Args:
      states: hidden states.
      lengths: valid positions per row, at least 1.
      pooling: last | mean | max | mean_max (the two side by side).

    Returns:
      The pooled states; twice as wide for mean_max.
    """
    if pooling == "last":
        return jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]
    valid = (jnp.arange(states.shape[1]) < lengths[:, None])[:, :, None]
    mean = jnp.sum(states * valid, axis=1) / lengths[:, None].astype(states.dtype)
    if pooling == "mean":
        return mean
    maximum = jnp.max(jnp.where(valid, states, jnp.finfo(states.dtype).min), axis=1)
    if pooling == "max":
        return maximum
    if pooling == "mean_max":
        return jnp.concatenate([mean, maximum], axis=-1)
    raise ValueError(f"unknown pooling {pooling!r}: one of {', '.join(POOLINGS)}")


class LstmClassifier(nn.Module):
    """Embedding, LSTM, pooling, dense layer, logits. Padding never changes a logit."""

    config: LstmConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch 2"]:
        """Returns float32 logits (negative, positive); dropout acts unless deterministic."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        xavier = nn.initializers.xavier_uniform()
        embed = nn.Embed(
            config.vocab_size,
            config.embedding_size,
            embedding_init=xavier,
            name="embedding",
        )
        embedded = embed(token_ids)
        embedded = nn.Dropout(config.embedding_dropout)(embedded, deterministic=deterministic)
        embedded = embedded.astype(dtype)
        states = ScannedLstm(config.hidden_size, dtype, name="forward")(embedded)
        pooled = pool(states, lengths, config.pooling)
        if config.bidirectional:
            backward = ScannedLstm(config.hidden_size, dtype, name="backward")
            states = backward(reverse_valid(embedded, lengths))
            pooled = jnp.concatenate([pooled, pool(states, lengths, config.pooling)], axis=-1)
        pooled = nn.Dropout(config.output_dropout)(pooled, deterministic=deterministic)
        hidden = nn.Dense(config.dense_size, kernel_init=xavier, dtype=dtype, name="dense")(pooled)
        classifier = nn.Dense(2, kernel_init=xavier, name="classifier")
        return classifier(nn.relu(hidden).astype(jnp.float32))
