"""ModernBERT (Warner et al., 2024): a pre-layer-norm encoder for long texts, without biases.

Rotary position embeddings (Su et al., 2021) and GeGLU (Shazeer, 2020); most layers attend to a
window around each token. Numerics follow Hugging Face's PyTorch model, heads included.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sentiment_jax.config.schema import ModernBertConfig
from sentiment_jax.models import layers
from sentiment_jax.models.bert import BertClassifier
from sentiment_jax.models.encoder import (
    Encoder,
    attend,
    attend_fully,
    classification_layers,
    mean_of_highest,
    mean_state,
)
from sentiment_jax.models.layers import (
    Dropout,
    Extent,
    Lengths,
    Logits,
    Packing,
    Pooled,
    Positions,
    States,
)

Heads = Float[Array, "batch length heads size"]


def rotate(inputs: Heads, theta: float) -> Heads:
    """Apply rotary position embeddings: turn feature pairs by angles that grow with position."""
    _, length, _, size = inputs.shape
    frequencies = 1 / theta ** (jnp.arange(0, size, 2) / size)
    angles = jnp.arange(length)[:, None, None] * frequencies
    cos = jnp.cos(angles)
    sin = jnp.sin(angles)
    first, second = jnp.split(inputs.astype(jnp.float32), 2, axis=-1)  # pairs: i, i + size / 2
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(inputs.dtype)


def attend_locally(
    config: ModernBertConfig,
    query: Heads,
    key: Heads,
    value: Heads,
    lengths: Lengths,
    deterministic: bool,
) -> Heads:
    """Attend to valid keys at most half a window away, at a cost of length x window.

    Queries are cut into blocks as long as the window: each sees its block and half a window on
    either side. Texts of up to two blocks are one block with all keys.
    """
    batch, length, heads, size = query.shape
    reach = config.local_attention // 2
    block = 2 * reach
    if length <= 2 * block:
        positions = jnp.arange(length)
        near = jnp.abs(positions[:, None] - positions) <= reach
        mask = near & (positions < lengths[:, None])[:, None]
        return attend(config, query, key, value, mask, deterministic)
    blocks = -(-length // block)
    padding = blocks * block - length

    def overlapping(keys: Heads) -> Float[Array, "blocks keys heads size"]:
        padded = jnp.pad(keys, ((0, 0), (reach, reach + padding), (0, 0), (0, 0)))
        parts = padded.reshape(batch, blocks + 1, block, heads, size)
        pairs = jnp.concatenate([parts[:, :-1], parts[:, 1:]], axis=2)
        return pairs.reshape(batch * blocks, 2 * block, heads, size)

    queries = jnp.pad(query, ((0, 0), (0, padding), (0, 0), (0, 0)))
    queries = queries.reshape(batch * blocks, block, heads, size)
    offsets = jnp.arange(2 * block) - reach  # of the keys from the start of their block
    near = jnp.abs(jnp.arange(block)[:, None] - offsets) <= reach
    positions = jnp.arange(blocks)[:, None] * block + offsets
    valid = (positions >= 0) & (positions < lengths[:, None, None])
    mask = (near & valid[:, :, None]).reshape(batch * blocks, block, 2 * block)
    context = attend(config, queries, overlapping(key), overlapping(value), mask, deterministic)
    return context.reshape(batch, blocks * block, heads, size)[:, :length]


class ModernBertLayer(nn.Module):
    """One pre-layer-norm layer; it attends to all tokens if `is_global`."""

    config: ModernBertConfig
    deterministic: bool
    is_first: bool
    is_global: bool

    @nn.compact
    def __call__(self, hidden: States, lengths: Lengths) -> States:
        """Apply attention, then a feed-forward network, each to the normalized sum so far."""
        config = self.config
        size = config.hidden_size
        normed = hidden if self.is_first else layers.layer_norm(config, "attention_norm")(hidden)
        projected = layers.Dense(config, 3 * size, name="qkv")(normed)
        split = (*hidden.shape[:2], config.num_attention_heads, -1)
        query, key, value = jnp.split(projected, 3, axis=-1)
        theta = config.global_rope_theta if self.is_global else config.local_rope_theta
        query = rotate(query.reshape(split), theta)
        key = rotate(key.reshape(split), theta)
        apply = attend_fully if self.is_global else attend_locally
        context = apply(config, query, key, value.reshape(split), lengths, self.deterministic)
        output = layers.Dense(config, size, name="attention_output")
        attended = output(context.reshape(hidden.shape))
        hidden += Dropout(config.attention_dropout, self.deterministic)(attended)
        normed = layers.layer_norm(config, "mlp_norm")(hidden)
        wide = 2 * config.intermediate_size
        gated = layers.Dense(config, wide, layers.geglu, name="intermediate")(normed)
        gated = Dropout(config.hidden_dropout, self.deterministic)(gated)
        return hidden + layers.Dense(config, size, name="output")(gated)


class ModernBertEncoder(Encoder):
    """The stack of layers, named `layer_<i>`, and a last normalization."""

    config: ModernBertConfig

    @nn.compact
    def __call__(
        self, hidden: States, extent: Extent, positions: Positions = None
    ) -> Float[Array, "batch chosen hidden"]:
        """Return the normalized states of all tokens, or of the tokens at `positions`."""
        assert not isinstance(extent, Packing)  # Architecture.packs
        config = self.config
        kind = nn.remat(ModernBertLayer) if config.remat else ModernBertLayer
        states = []
        for i in range(config.num_hidden_layers):
            layer = kind(
                config,
                self.deterministic,
                is_first=i == 0,
                is_global=i % config.global_attn_every_n_layers == 0,
                name=f"layer_{i}",
            )
            hidden = layer(hidden, extent)
            states.append(hidden)
        hidden = mean_of_highest(states, self.averaged)
        if positions is not None:
            hidden = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
        return layers.layer_norm(config, "norm")(hidden)


class ModernBertClassifier(BertClassifier):
    """The encoder under ModernBERT's head: dense, GELU, layer norm, dropout, linear classifier."""

    config: ModernBertConfig
    encoder = ModernBertEncoder

    def pool(self, states: States, extent: Extent) -> Pooled:
        """Return the first token's state, or the mean of the valid ones."""
        if self.config.classifier_pooling == "cls":
            return super().pool(states, extent)
        return mean_state(states, extent)

    def head(self, pooled: Pooled, deterministic: bool) -> Logits:
        """Return the logits for the pooled states."""
        dense, dropout = classification_layers(self.config, deterministic)
        inner = dense(self.config.hidden_size, use_bias=False, name="head_dense")(pooled)
        exact = dataclasses.replace(self.config, dtype="float32", attention="xla")
        features = layers.layer_norm(exact, "head_norm")(layers.gelu(inner))
        return dense(self.classes, name="classifier")(dropout(features))
