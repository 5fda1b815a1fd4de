"""An LSTM review classifier, by default the network of the study that this project replicates.

That is: word embedding 100, one LSTM of 64 units, its state after the last valid word, dropout 0.3,
a dense layer of 128 with ReLU, two logits; Xavier initial weights. Pooling over all states and a
second direction follow Johnson & Zhang (2016), https://arxiv.org/abs/1602.02373.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sentiment_jax.config import LstmConfig
from sentiment_jax.models.dropout import Dropout
from sentiment_jax.models.layers import compute_dtype, product_precision
from sentiment_jax.models.lstm_scan import ScannedLstm


def reverse_valid(
    inputs: Float[Array, "length batch features"], lengths: Int[Array, " batch"]
) -> Float[Array, "length batch features"]:
    """Reverse the first `lengths` positions of every row and leave the padding in place."""
    position = jnp.arange(inputs.shape[0])[:, None]
    source = jnp.where(position < lengths, lengths - 1 - position, position)
    return jnp.take_along_axis(inputs, source[:, :, None], axis=0)


def pool(
    states: Float[Array, "length batch hidden"], lengths: Int[Array, " batch"], pooling: str
) -> Float[Array, "batch pooled"]:
    """Reduce the valid states of every row, at least one, to one vector.

    `pooling` is last, mean, max, or mean_max: the two side by side, twice as wide.
    """
    if pooling == "last":
        return jnp.take_along_axis(states, (lengths - 1)[None, :, None], axis=0)[0]
    valid = (jnp.arange(states.shape[0])[:, None] < lengths)[:, :, None]
    mean = jnp.sum(states * valid, axis=0) / lengths[:, None].astype(states.dtype)
    maximum = jnp.max(jnp.where(valid, states, jnp.finfo(states.dtype).min), axis=0)
    both = jnp.concatenate([mean, maximum], axis=-1)
    return {"mean": mean, "max": maximum, "mean_max": both}[pooling]


class LstmClassifier(nn.Module):
    """Embedding, LSTM, pooling, dense layer, logits. Padding never changes a logit."""

    config: LstmConfig
    classes: int = 2

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch classes"]:
        """Return float32 logits, with dropout unless deterministic."""
        config, dtype = self.config, compute_dtype(self.config.dtype)
        precision = product_precision(config.dtype, dtype)
        xavier = nn.initializers.xavier_uniform()
        sizes = config.vocab_size, config.embedding_size
        embed = nn.Embed(*sizes, embedding_init=xavier, name="embedding")
        embedded = embed(token_ids.T)  # scans run along the first axis
        embedded = Dropout(config.embedding_dropout, deterministic)(embedded).astype(dtype)
        lstm = functools.partial(ScannedLstm, config.hidden_size, dtype, precision)
        states = lstm(name="forward")(embedded)
        pooled = pool(states, lengths, config.pooling)
        if config.bidirectional:
            states = lstm(name="backward")(reverse_valid(embedded, lengths))
            pooled = jnp.concatenate([pooled, pool(states, lengths, config.pooling)], axis=-1)
        pooled = Dropout(config.output_dropout, deterministic)(pooled)
        dense = functools.partial(nn.Dense, kernel_init=xavier)
        hidden = dense(config.dense_size, dtype=dtype, precision=precision, name="dense")(pooled)
        hidden = nn.relu(hidden).astype(jnp.float32)
        exact = product_precision(config.dtype)
        return dense(self.classes, precision=exact, name="classifier")(hidden)
