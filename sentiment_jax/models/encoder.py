"""The post-layer-norm encoder of BERT (Devlin et al., 2019) and ELECTRA (Clark et al., 2020).

Numerics follow Hugging Face's PyTorch models. `model.apply(..., capture_intermediates=True)` also
returns the outputs of the embeddings and of every layer.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sentiment_jax.config.schema import EncoderConfig
from sentiment_jax.models.dropout import Dropout, drop
from sentiment_jax.models.layers import (
    Dense,
    einsum,
    fits_cudnn,
    gelu,
    layer_norm,
    on_gpu,
    product_precision,
)


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, normalized; projected where the sizes differ."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        project: bool = True,
        perturbation: Float[Array, "batch length embedding"] | None = None,
    ) -> Float[Array, "batch length hidden"]:
        """Embed token ids, all of type 0; raise ValueError if they exceed the position table.

        A `perturbation` is added to the words' embeddings.
        """
        config = self.config
        length, positions = token_ids.shape[1], config.max_position_embeddings
        if length > positions:
            raise ValueError(f"{length} tokens exceed the {positions} positions")
        init = nn.initializers.normal(config.initializer_range)

        def embed(kind: str, size: int, ids: Array) -> Array:
            name = f"{kind}_embeddings"
            return nn.Embed(size, config.embedding_size, embedding_init=init, name=name)(ids)

        hidden = embed("word", config.vocab_size, token_ids)
        if perturbation is not None:
            hidden += perturbation
        hidden += embed("position", positions, jnp.arange(length))
        hidden += embed("token_type", config.type_vocab_size, jnp.zeros((), jnp.int32))
        hidden = layer_norm(config, "layer_norm")(hidden)
        hidden = Dropout(config.hidden_dropout, self.deterministic)(hidden)
        if project and config.embedding_size != config.hidden_size:
            hidden = Dense(config, config.hidden_size, name="projection")(hidden)
        return hidden


class SelfAttention(nn.Module):
    """Multi-head self-attention with its output projection; keys past a row's length are masked."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        queries: Float[Array, "batch queries hidden"],
        hidden: Float[Array, "batch length hidden"],
        lengths: Int[Array, " batch"],
    ) -> Float[Array, "batch queries hidden"]:
        """Attend from `queries` to the first `lengths` tokens of each row."""
        config = self.config

        def heads(name: str, source: Array) -> Array:
            projected = Dense(config, config.hidden_size, name=name)(source)
            return projected.reshape(*source.shape[:2], config.num_attention_heads, -1)

        query, key, value = heads("query", queries), heads("key", hidden), heads("value", hidden)
        if config.attention == "cudnn" and fits_cudnn(query, key):
            context = jax.nn.dot_product_attention(
                query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
            )
        else:  # jax.nn.dot_product_attention has no dropout, and is slower on the CPU
            precision = product_precision(config.dtype, query.dtype)
            scores = einsum("bqhd,bkhd->bhqk", query, key, precision)
            rate = config.attention_dropout
            keep = Dropout(rate, self.deterministic).mask(scores.shape)

            def weigh(scores: Float[Array, "batch heads queries keys"]) -> Array:
                scores = scores / math.sqrt(query.shape[-1])
                mask = jnp.arange(hidden.shape[1]) < lengths[:, None]
                scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
                return drop(nn.softmax(scores).astype(value.dtype), keep, rate)

            # Rematerialized on a GPU, all of it is one kernel, which reads the scores once.
            weights = (jax.checkpoint(weigh) if on_gpu() else weigh)(scores)
            context = einsum("bhqk,bkhd->bqhd", weights, value, precision, rounds=True)
            context = context.astype(value.dtype)
        return Dense(config, config.hidden_size, name="output")(context.reshape(queries.shape))


def take_tokens(
    hidden: Float[Array, "batch length hidden"], positions: Int[Array, "batch queries"] | None
) -> Float[Array, "batch queries hidden"]:
    """Return the states at some positions of each row; None: at all."""
    if positions is None:
        return hidden
    return jnp.take_along_axis(hidden, positions[:, :, None], axis=1)


class Layer(nn.Module):
    """One post-layer-norm transformer layer.

    With `first_only` it computes the first token alone, given positions, the tokens there.
    """

    config: EncoderConfig
    deterministic: bool
    first_only: bool = False

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "batch length hidden"],
        lengths: Int[Array, " batch"],
        positions: Int[Array, "batch queries"] | None = None,
    ) -> Float[Array, "batch queries hidden"]:
        """Apply attention, then a feed-forward network, each added to its input and normalized."""
        config = self.config
        dropout = Dropout(config.hidden_dropout, self.deterministic)
        attention = SelfAttention(config, self.deterministic, name="attention")
        queries = hidden[:, :1] if self.first_only else take_tokens(hidden, positions)
        attended = dropout(attention(queries, hidden, lengths))
        hidden = layer_norm(config, "attention_norm")(queries + attended)
        activated = Dense(config, config.intermediate_size, gelu, name="intermediate")(hidden)
        output = Dense(config, config.hidden_size, name="output")(activated)
        return layer_norm(config, "output_norm")(hidden + dropout(output))


class Encoder(nn.Module):
    """The stack of layers: parameters `layer_<i>`, or scanned, `layers` with a leading axis."""

    config: EncoderConfig
    deterministic: bool
    first_only: bool = True

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "batch length hidden"],
        lengths: Int[Array, " batch"],
        positions: Int[Array, "batch queries"] | None = None,
    ) -> Float[Array, "batch queries hidden"]:
        """Return the last states of the first token, or of those at some positions or at all.

        An unscanned last layer computes only these.
        """
        config = self.config
        layer = nn.remat(Layer) if config.remat else Layer
        if not config.scan_layers:
            for i in range(config.num_hidden_layers):
                last = i == config.num_hidden_layers - 1
                first_only, wanted = last and self.first_only, positions if last else None
                one = layer(config, self.deterministic, first_only, name=f"layer_{i}")
                hidden = one(hidden, lengths, wanted)
            return hidden
        scan = nn.scan(
            lambda layers, carry: (layers(carry, lengths), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.num_hidden_layers,
        )
        hidden = scan(layer(config, self.deterministic, name="layers"), hidden)[0]
        return hidden[:, :1] if self.first_only else take_tokens(hidden, positions)


def layerwise_multipliers(params: dict[str, Any], decay: float) -> dict[str, Any]:
    """Return multipliers of the learning rate that shrink towards the embeddings.

    With L layers: heads 1, layer i `decay ** (L - i)`, embeddings `decay ** (L + 1)`, as in
    Howard & Ruder (2018) and Clark et al. (2020). Scanned layers get one array for all.
    """
    encoder = params["encoder"]
    layers = jax.tree.leaves(encoder["layers"])[0].shape[0] if "layers" in encoder else len(encoder)

    def multiplier(path: Any, leaf: Array) -> float | Array:
        names = [entry.key for entry in path]
        if names[0] == "embeddings":
            return decay ** (layers + 1)
        if names[0] != "encoder":
            return 1.0
        if names[1] == "layers":
            powers = jnp.asarray([decay ** (layers - i) for i in range(layers)], jnp.float32)
            return powers.reshape(-1, *[1] * (leaf.ndim - 1))
        return decay ** (layers - int(names[1].removeprefix("layer_")))

    return jax.tree_util.tree_map_with_path(multiplier, params)
