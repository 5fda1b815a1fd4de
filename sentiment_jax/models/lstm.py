"""An LSTM text classifier, by default the network of the study that this project replicates.

It has word embedding 100, one LSTM of 64 units, its state after the last valid word, dropout 0.3, a
dense layer of 128 with ReLU, two logits; Xavier initial weights. Pooling over all states, a second
direction and reading a text in segments: Johnson & Zhang (2016), https://arxiv.org/abs/1602.02373.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.models import layers
from sentiment_jax.models.layers import Dropout, Lengths, Logits, NgramIds, NgramTokens
from sentiment_jax.models.lstm_scan import ScannedLstm

UNKNOWN = 1  # [UNK] of a word-level vocabulary


def drop_words(token_ids: NgramIds, keep: Bool[Array, "batch length"]) -> NgramIds:
    """Make words unknown, and remove the n-grams that begin there."""
    if token_ids.ndim == 2:
        return jnp.where(keep, token_ids, UNKNOWN)
    unknown = jnp.zeros(token_ids.shape[2], jnp.int32).at[0].set(UNKNOWN)
    return jnp.where(keep[:, :, None], token_ids, unknown)


def pool(
    states: Float[Array, "length batch hidden"], lengths: Lengths, pooling: str
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


def embedding(config: LstmConfig, init: nn.initializers.Initializer) -> nn.Embed:
    """Return the table of the words' vectors and the n-grams'."""
    return nn.Embed(config.vocab_size, config.embedding_size, embedding_init=init, name="embedding")


class LstmClassifier(nn.Module):
    """Embedding, LSTM, pooling, dense layer, logits. Padding never changes a logit."""

    config: LstmConfig
    classes: int = 2

    @nn.compact
    def __call__(self, tokens: NgramTokens, lengths: Lengths, *, deterministic: bool) -> Logits:
        """Return float32 logits."""
        config = self.config
        dtype = layers.compute_dtype(config.dtype)
        precision = layers.product_precision(config.dtype, dtype)
        xavier = nn.initializers.xavier_uniform()
        # Named: masks of nameless Dropout modules depend on how many of these come before them.
        word_dropout = Dropout(config.word_dropout, deterministic, name="word_dropout")
        batch, length, *features = tokens.shape
        keep = word_dropout.mask((batch, length))
        if keep is not None:
            tokens = drop_words(tokens, keep)
        # Rows are cut into segments side by side, padded with zeros; positions come first. The LSTM
        # reads each segment from a zero state.
        segment = config.segment_length or length
        padding = ((0, 0), (0, -length % segment), *[(0, 0)] * len(features))
        segments = jnp.pad(tokens, padding).reshape(-1, segment, *features).swapaxes(0, 1)
        embedded = layers.embed_positions(embedding(config, xavier), segments)
        embedded = Dropout(config.embedding_dropout, deterministic)(embedded).astype(dtype)

        def read(direction: str, inputs: Float[Array, "segment segments features"]) -> Array:
            states = ScannedLstm(config.hidden_size, dtype, precision, name=direction)(inputs)
            # The states of each row's segments, one after another.
            apart = states.reshape(segment, batch, -1, config.hidden_size).transpose(2, 0, 1, 3)
            return pool(apart.reshape(-1, *apart.shape[2:]), lengths, config.pooling)

        pooled = read("forward", embedded)
        if config.bidirectional:
            starts = jnp.arange(0, length, segment)
            valid = jnp.clip(lengths[:, None] - starts, 0, segment).reshape(-1)
            order = (valid - 1 - jnp.arange(segment)[:, None]) % segment  # padding stays behind
            reverse = jnp.take_along_axis(embedded, order[:, :, None], axis=0)
            pooled = jnp.concatenate([pooled, read("backward", reverse)], axis=-1)
        pooled = Dropout(config.output_dropout, deterministic)(pooled)
        dense = functools.partial(nn.Dense, kernel_init=xavier)
        hidden = dense(config.dense_size, dtype=dtype, precision=precision, name="dense")(pooled)
        hidden = nn.relu(hidden).astype(jnp.float32)
        exact = layers.product_precision(config.dtype)
        return dense(self.classes, precision=exact, name="classifier")(hidden)


class NgramEmbeddings(nn.Module):
    """The LSTM's embedding alone, for pre-training: a vector for each word and n-gram."""

    config: LstmConfig

    @nn.compact
    def __call__(
        self, token_ids: NgramIds, lengths: Lengths, *, deterministic: bool
    ) -> Float[Array, "batch length *ngrams embedding"]:
        """Return the vectors of words and n-grams, at first all zero."""
        return embedding(self.config, nn.initializers.zeros)(token_ids)


def layerwise_multipliers(params: Mapping[str, Any], decay: float) -> Any:
    """Return factors of the learning rate: heads 1, LSTM `decay`, embedding `decay ** 2`."""
    powers = {"embedding": 2, "forward": 1, "backward": 1}
    return jax.tree.map_with_path(lambda path, _: decay ** powers.get(path[0].key, 0), params)
