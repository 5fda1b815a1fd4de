"""The post-layer-norm encoder of BERT (Devlin et al., 2019), ELECTRA, DistilBERT and RoBERTa.

Numerics follow Hugging Face's PyTorch models. `model.apply(..., capture_intermediates=True)` also
returns the outputs of the embeddings and of every layer.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.models import layers
from sentiment_jax.models.layers import Dropout, Extent, Packing, Positions, States, Tokens, drop

Queries = Float[Array, "texts queries heads size"]
Keys = Float[Array, "rows keys heads size"]


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, normalized; projected where the sizes differ."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, tokens: Tokens, project: bool = True, places: Int[Array, "#rows length"] | None = None
    ) -> States:
        """Embed tokens, all of type 0; raise ValueError if they exceed the position table.

        `places` are the tokens' positions in their texts, by default those in their rows.
        """
        config = self.config
        length = tokens.shape[1]
        positions = config.max_position_embeddings
        first = config.first_position
        if first + length > positions:
            raise ValueError(f"{length} tokens exceed the {positions - first} positions")
        init = nn.initializers.normal(config.initializer_range)

        def table(kind: str, rows: int) -> nn.Embed:
            name = f"{kind}_embeddings"
            return nn.Embed(rows, config.embedding_size, embedding_init=init, name=name)

        hidden = layers.embed_positions(table("word", config.vocab_size), tokens)
        if config.position_embeddings:
            places = jnp.arange(length) if places is None else places
            hidden += table("position", positions)(first + places)
        if config.type_vocab_size:
            hidden += table("token_type", config.type_vocab_size)(jnp.zeros(1, jnp.int32))
        hidden = layers.layer_norm(config, "layer_norm")(hidden)
        hidden = Dropout(config.hidden_dropout, self.deterministic)(hidden)
        if project and config.embedding_size != config.hidden_size:
            hidden = layers.Dense(config, config.hidden_size, name="projection")(hidden)
        return hidden


def attend(
    config: EncoderConfig,
    query: Queries,
    key: Keys,
    value: Keys,
    mask: Bool[Array, "batch #queries keys"],
    deterministic: bool,
) -> Queries:
    """Return scaled dot-product attention to the keys in `mask`, with dropout of its weights."""
    # jax.nn.dot_product_attention has no dropout, and is slower on the CPU.
    precision = layers.product_precision(config.dtype, query.dtype)
    scores = layers.einsum("bqhd,bkhd->bhqk", query, key, precision)
    rate = config.attention_dropout
    keep = Dropout(rate, deterministic).mask(scores.shape)

    def weigh(scores: Float[Array, "batch heads queries keys"]) -> Array:
        scores = scores / math.sqrt(query.shape[-1])
        scores = jnp.where(mask[:, None], scores, jnp.finfo(jnp.float32).min)
        return drop(nn.softmax(scores).astype(value.dtype), keep, rate)

    # Rematerialized on a GPU, these operations are one kernel, which reads the scores once.
    weights = (jax.checkpoint(weigh) if layers.on_gpu() else weigh)(scores)
    context = layers.einsum("bhqk,bkhd->bqhd", weights, value, precision, rounds=True)
    return context.astype(value.dtype)


def attend_fully(
    config: EncoderConfig,
    query: Queries,
    key: Keys,
    value: Keys,
    extent: Extent,
    deterministic: bool,
) -> Queries:
    """Attend to the keys of the same text, by cuDNN if the config says so and rows are texts."""
    if isinstance(extent, Packing):
        if query.shape[1] == key.shape[1]:  # else the first tokens alone
            mask = extent.segments[:, :, None] == extent.segments[:, None]
            return attend(config, query, key, value, mask, deterministic)
        rows = extent.starts // key.shape[1]
        mask = extent.segments[rows] == jnp.arange(1, len(rows) + 1)[:, None]
        return attend(config, query, key[rows], value[rows], mask[:, None], deterministic)
    # For cuDNN, JAX refuses odd lengths, and so the last layer's single query, and other widths.
    even = query.shape[1] % 2 == key.shape[1] % 2 == 0
    fits = even and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
    if config.attention == "cudnn" and fits and layers.on_gpu():
        return jax.nn.dot_product_attention(
            query, key, value, key_value_seq_lengths=extent, implementation="cudnn"
        )
    mask = jnp.arange(key.shape[1]) < extent[:, None]
    return attend(config, query, key, value, mask[:, None], deterministic)


def first_states(
    states: Float[Array, "rows length hidden"], extent: Extent
) -> Float[Array, "texts 1 hidden"]:
    """Return the state of each text's first token."""
    if isinstance(extent, Packing):
        return states.reshape(-1, states.shape[-1])[extent.starts][:, None]
    return states[:, :1]


def mean_state(
    states: Float[Array, "rows length hidden"], extent: Extent
) -> Float[Array, "texts hidden"]:
    """Return the mean of the states of each text's tokens."""
    states = states.astype(jnp.float32)
    if isinstance(extent, Packing):
        texts = jnp.arange(1, len(extent.starts) + 1)[:, None] == extent.segments.reshape(-1)
        states = states.reshape(-1, states.shape[-1])
        total = jnp.matmul(texts.astype(jnp.float32), states, precision=jax.lax.Precision.HIGHEST)
        return total / extent.lengths[:, None]
    valid = jnp.arange(states.shape[1]) < extent[:, None]
    return jnp.sum(states * valid[:, :, None], axis=1) / extent[:, None]


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection; only keys of the same text count."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, queries: Float[Array, "texts queries hidden"], hidden: States, extent: Extent
    ) -> Float[Array, "texts queries hidden"]:
        """Attend from `queries` to the tokens of their text."""
        config = self.config

        def heads(name: str, source: Array) -> Array:
            projected = layers.Dense(config, config.hidden_size, name=name)(source)
            return projected.reshape(*source.shape[:2], config.num_attention_heads, -1)

        query = heads("query", queries)
        key = heads("key", hidden)
        value = heads("value", hidden)
        context = attend_fully(config, query, key, value, extent, self.deterministic)
        output = layers.Dense(config, config.hidden_size, name="output")
        return output(context.reshape(queries.shape))


class Layer(nn.Module):
    """A post-layer-norm layer: states of all tokens, those at `positions`, or the first alone."""

    config: EncoderConfig
    deterministic: bool
    first_only: bool = False

    @nn.compact
    def __call__(
        self, hidden: States, extent: Extent, positions: Positions = None
    ) -> Float[Array, "texts chosen hidden"]:
        """Apply attention, then a feed-forward network, each added to its input and normalized."""
        config = self.config
        dropout = Dropout(config.hidden_dropout, self.deterministic)
        attention = SelfAttention(config, self.deterministic, name="attention")
        queries = hidden
        if self.first_only:
            queries = first_states(hidden, extent)
        elif positions is not None:
            queries = jnp.take_along_axis(hidden, positions[:, :, None], axis=1)
        attended = attention(queries, hidden, extent)
        if config.attention_output_dropout:
            attended = dropout(attended)
        hidden = layers.layer_norm(config, "attention_norm")(queries + attended)
        size = config.intermediate_size
        activated = layers.Dense(config, size, layers.gelu, name="intermediate")(hidden)
        output = layers.Dense(config, config.hidden_size, name="output")(activated)
        return layers.layer_norm(config, "output_norm")(hidden + dropout(output))


def mean_of_highest(
    states: Sequence[Float[Array, "texts _ hidden"]], count: int
) -> Float[Array, "texts _ hidden"]:
    """Return the mean of the last `count` layers' states, or of all if there are fewer."""
    if count == 1:
        return states[-1]
    return jnp.mean(jnp.stack(states[-count:]).astype(jnp.float32), axis=0)


class Encoder(nn.Module):
    """The stack of layers, named `layer_<i>`."""

    config: EncoderConfig
    deterministic: bool
    first_only: bool = True
    averaged: int = 1  # layers, the highest, whose states' mean is returned

    @nn.compact
    def __call__(
        self, hidden: States, extent: Extent, positions: Positions = None
    ) -> Float[Array, "texts chosen hidden"]:
        """Return the last layer's states, computed for the tokens that are asked for alone.

        If several layers are `averaged`, the mean of their states; it has no `positions`.
        """
        config = self.config
        layer = nn.remat(Layer) if config.remat else Layer
        last = config.num_hidden_layers - 1
        below = []
        for i in range(last):
            hidden = layer(config, self.deterministic, name=f"layer_{i}")(hidden, extent)
            below.append(first_states(hidden, extent) if self.first_only else hidden)
        top = layer(config, self.deterministic, self.first_only, name=f"layer_{last}")
        return mean_of_highest([*below, top(hidden, extent, positions)], self.averaged)


def classification_layers(
    config: EncoderConfig, deterministic: bool
) -> tuple[Callable[..., nn.Dense], Dropout]:
    """Return a constructor of a classification head's dense layers, in float32, and its dropout."""
    init = nn.initializers.normal(config.initializer_range)
    rate = config.hidden_dropout if config.classifier_dropout is None else config.classifier_dropout
    precision = layers.product_precision(config.dtype)
    dense = functools.partial(nn.Dense, kernel_init=init, precision=precision)
    return dense, Dropout(rate, deterministic)


def layerwise_multipliers(params: Mapping[str, Any], decay: float) -> Any:
    """Return factors of the learning rate: 1 for heads, `decay` more for each layer below them.

    Howard & Ruder (2018) and Clark et al. (2020).
    """
    depth = sum(name.startswith("layer_") for name in params["encoder"])

    def multiplier(path: Any, _: Array) -> float:
        if path[0].key == "embeddings":
            return decay ** (depth + 1)
        if path[0].key != "encoder" or not path[1].key.startswith("layer_"):
            return 1.0
        return decay ** (depth - int(path[1].key.removeprefix("layer_")))

    return jax.tree_util.tree_map_with_path(multiplier, params)
