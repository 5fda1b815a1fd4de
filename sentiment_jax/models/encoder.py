"""The post-layer-norm encoder of BERT (Devlin et al., 2019) and ELECTRA (Clark et al., 2020).

Numerics follow Hugging Face's PyTorch models. The embeddings' and every layer's output are had with
`model.apply(..., capture_intermediates=True)`.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, Int

from sentiment_jax.errors import InputError
from sentiment_jax.models.dropout import Dropout


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """An encoder's sizes and rates, Hugging Face's config.json in our names; defaults: BERT-base.

    An `embedding_size` other than `hidden_size` adds a projection (ELECTRA-small). None as
    `classifier_dropout` means `hidden_dropout`. `dtype` is what is computed in: parameters,
    softmax, layer-norm statistics and logits are float32 always.
    """

    model_type: str = "bert"
    vocab_size: int = 30522
    embedding_size: int = 768
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    initializer_range: float = 0.02
    dtype: str = "float32"
    attention: str = "xla"
    remat: bool = False
    scan_layers: bool = False

    def __post_init__(self):
        """Refuses what can't be built, with `InputError`."""
        choices = {
            "model_type": ("bert", "electra"),
            "hidden_act": ("gelu",),
            "dtype": ("float32", "bfloat16"),
            "attention": ("xla", "cudnn"),
        }
        for field, allowed in choices.items():
            if (value := getattr(self, field)) not in allowed:
                raise InputError(
                    f"model.{field}={value!r} is unknown; choose from {', '.join(allowed)}"
                )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise InputError(f"model.{field.name}={value} must be at least 1")
            if field.name.endswith("dropout") and value is not None and not 0 <= value < 1:
                raise InputError(f"model.{field.name}={value} must be in [0, 1)")
        if self.hidden_size % self.num_attention_heads:
            raise InputError(
                f"model.hidden_size={self.hidden_size} is not divisible by "
                f"model.num_attention_heads={self.num_attention_heads}"
            )
        if self.attention == "cudnn" and (self.dtype != "bfloat16" or self.attention_dropout > 0):
            raise InputError(
                "model.attention=cudnn needs model.dtype=bfloat16 and model.attention_dropout=0.0, "
                f"got {self.dtype} and {self.attention_dropout}"
            )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(spec: str, left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """A product of two operands in their own dtype, accumulated and returned in float32.

    The cotangent is rounded to that dtype too: JAX's own rule would multiply it in float32, which
    takes a quarter of a bfloat16 training step on the CPU. Every index must occur in two or three
    of the operands and the result: then a gradient is an einsum again.
    """
    a, b, out = spec.replace("->", ",").split(",")
    if next(index for index in out if (index in a) != (index in b)) in b:
        a, b, left, right = b, a, right, left  # XLA's CPU backend has no transposed bf16 product
    return jnp.einsum(f"{a},{b}->{out}", left, right, preferred_element_type=jnp.float32)


def _einsum_forward(spec, left, right):
    return einsum(spec, left, right), (left, right)


def _einsum_backward(spec, operands, cotangent):
    left, right = operands
    a, b, out = spec.replace("->", ",").split(",")
    grad_left = einsum(f"{out},{b}->{a}", cotangent.astype(right.dtype), right)
    grad_right = einsum(f"{a},{out}->{b}", left, cotangent.astype(left.dtype))
    return grad_left.astype(left.dtype), grad_right.astype(right.dtype)


einsum.defvjp(_einsum_forward, _einsum_backward)


class Dense(nn.Module):
    """A dense layer computed in `config.dtype`, initialised as Hugging Face does."""

    config: EncoderConfig
    features: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch length in"]) -> Float[Array, "batch length out"]:
        """Multiplies by the kernel with float32 accumulation and adds the bias."""
        dtype = jnp.dtype(self.config.dtype)
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (inputs.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        product = einsum("bli,io->blo", inputs.astype(dtype), kernel.astype(dtype))
        return (product + bias).astype(dtype)


def gelu(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """Exact GELU in float32 by erf, as PyTorch has it; flax's, by erfc, takes twice the time."""
    x = inputs.astype(jnp.float32)
    return (0.5 * x * (1 + jax.lax.erf(math.sqrt(0.5) * x))).astype(inputs.dtype)


def layer_norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    """Layer normalisation over the last axis; flax takes the statistics in float32.

    Computed again when its gradient is taken: less memory, and on a CPU no slower.
    """
    again = nn.remat(nn.LayerNorm, prevent_cse=not config.scan_layers)
    return (nn.LayerNorm if config.remat else again)(
        epsilon=config.layer_norm_eps,
        dtype=jnp.dtype(config.dtype),
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits where the mean is large
        name=name,
    )


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, normalised; projected where the sizes differ."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, token_ids: Int[Array, "batch length"]
    ) -> Float[Array, "batch length hidden"]:
        """Embeds token ids, all of type 0; `InputError` for rows longer than the position table."""
        config = self.config
        length = token_ids.shape[1]
        if length > config.max_position_embeddings:
            raise InputError(
                f"{length} tokens are more than the model's positions: set data.max_length to at "
                f"most {config.max_position_embeddings}"
            )
        embed = functools.partial(
            nn.Embed,
            features=config.embedding_size,
            embedding_init=nn.initializers.normal(config.initializer_range),
        )
        words = embed(config.vocab_size, name="word_embeddings")(token_ids)
        positions = embed(config.max_position_embeddings, name="position_embeddings")(
            jnp.arange(length)
        )
        token_type = embed(config.type_vocab_size, name="token_type_embeddings")(
            jnp.zeros((), jnp.int32)
        )
        hidden = layer_norm(config, "layer_norm")(words + positions + token_type)
        hidden = Dropout(config.hidden_dropout, deterministic=self.deterministic)(hidden)
        if config.embedding_size != config.hidden_size:
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
        """Attends from `queries` to each row's first `lengths` tokens."""
        config = self.config

        def heads(name: str, source: Array) -> Array:
            projected = Dense(config, config.hidden_size, name=name)(source)
            return projected.reshape(*source.shape[:2], config.num_attention_heads, -1)

        query, key, value = heads("query", queries), heads("key", hidden), heads("value", hidden)
        if config.attention == "cudnn":
            context = jax.nn.dot_product_attention(
                query, key, value, key_value_seq_lengths=lengths, implementation="cudnn"
            )
        else:  # jax.nn.dot_product_attention has no dropout, and is slower on the CPU
            scores = einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(query.shape[-1])
            mask = jnp.arange(hidden.shape[1]) < lengths[:, None]
            scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(jnp.float32).min)
            weights = nn.softmax(scores).astype(value.dtype)
            weights = Dropout(config.attention_dropout, self.deterministic)(weights)
            context = einsum("bhqk,bkhd->bqhd", weights, value).astype(value.dtype)
        return Dense(config, config.hidden_size, name="output")(context.reshape(queries.shape))


class Layer(nn.Module):
    """One post-layer-norm transformer layer; with `first_only`, for the first token alone."""

    config: EncoderConfig
    deterministic: bool
    first_only: bool = False

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "batch length hidden"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch queries hidden"]:
        """Attention, then the feed-forward network, each added to its input and normalised."""
        config = self.config
        dropout = Dropout(config.hidden_dropout, deterministic=self.deterministic)
        attention = SelfAttention(config, self.deterministic, name="attention")
        queries = hidden[:, :1] if self.first_only else hidden
        attended = attention(queries, hidden, lengths)
        hidden = layer_norm(config, "attention_norm")(queries + dropout(attended))
        inner = Dense(config, config.intermediate_size, name="intermediate")(hidden)
        # computed again when its gradient is taken, to keep no more than its input
        inner = jax.checkpoint(gelu)(inner)
        output = Dense(config, config.hidden_size, name="output")(inner)
        return layer_norm(config, "output_norm")(hidden + dropout(output))


class Encoder(nn.Module):
    """The stack of layers: parameters `layer_<i>`, or scanned, `layers` with a leading axis."""

    config: EncoderConfig
    deterministic: bool

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "batch length hidden"], lengths: Int[Array, " batch"]
    ) -> Float[Array, "batch hidden"]:
        """Applies the layers in turn; returns the first token's last state.

        Nothing else of the last layer is used, so nothing else is computed, unless it is scanned.
        """
        config = self.config
        layer = nn.remat(Layer) if config.remat else Layer
        if not config.scan_layers:
            for index in range(config.num_hidden_layers):
                last = index == config.num_hidden_layers - 1
                name = f"layer_{index}"
                hidden = layer(config, self.deterministic, last, name=name)(hidden, lengths)
            return hidden[:, 0]
        scan = nn.scan(
            lambda layers, carry: (layers(carry, lengths), None),
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            length=config.num_hidden_layers,
        )
        return scan(layer(config, self.deterministic, name="layers"), hidden)[0][:, 0]


def layerwise_multipliers(params: dict[str, Any], decay: float) -> dict[str, Any]:
    """Learning-rate multipliers that fall with depth (Howard & Ruder, 2018; Clark et al., 2020).

    With L layers: heads 1, layer i `decay ** (L - i)`, embeddings `decay ** (L + 1)`. Scanned
    layers get an array that broadcasts along their leading axis.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    encoder = params["encoder"]
    layers = jax.tree.leaves(encoder["layers"])[0].shape[0] if "layers" in encoder else len(encoder)

    def multiplier(name: str, leaf: Array) -> float | Array:
        part, *rest = name.split("/")
        if part == "embeddings":
            return decay ** (layers + 1)
        if part != "encoder":
            return 1.0
        if rest[0] == "layers":
            powers = jnp.asarray([decay ** (layers - i) for i in range(layers)], jnp.float32)
            return powers.reshape(-1, *[1] * (leaf.ndim - 1))
        return decay ** (layers - int(rest[0].removeprefix("layer_")))

    return traverse_util.unflatten_dict(
        {name: multiplier(name, leaf) for name, leaf in flat.items()}, sep="/"
    )
