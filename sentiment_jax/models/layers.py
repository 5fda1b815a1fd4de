"""Layers that the networks share, and fast forms of the encoder's operations.

The product, dense layer, GELU and layer normalization have the values of their plain forms
(jnp.einsum, nn.Dense, nn.gelu(approximate=False), nn.LayerNorm); tests compare the two.
"""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from sentiment_jax.config.schema import EncoderConfig

Vectors = Float[Array, "batch length embedding"]
TokenIds = Int[Array, "batch length"]
# A classifier's input: ids, or the vectors themselves, which `embed_positions` passes on.
Tokens = TokenIds | Vectors
NgramIds = Int[Array, "batch length *ngrams"]
NgramTokens = NgramIds | Vectors
Lengths = Int[Array, " batch"]  # how many of a row's tokens are valid, from the left
Positions = Int[Array, "batch chosen"] | None  # of the tokens to return states of; None: all
States = Float[Array, "batch length hidden"]
Pooled = Float[Array, "batch hidden"]
Logits = Float[Array, "batch classes"]
FEATURES = ("intermediates", "features")  # where a classifier sows what its last layer reads


class Packing(NamedTuple):
    """Rows that hold several texts each, as data/batches.py packs them."""

    segments: Int[Array, "rows length"]  # the text that each token belongs to, from 1; 0: padding
    positions: Int[Array, "rows length"]  # of each token in its text
    starts: Int[Array, " texts"]  # where each text begins in the flattened rows
    lengths: Int[Array, " texts"]


Extent = Lengths | Packing  # which tokens count


def on_gpu() -> bool:
    """Return whether programs are traced for a GPU: asked wherever its fastest form differs."""
    device = getattr(jax.config, "jax_default_device", None)  # initialization sets a CPU's
    return (getattr(device, "platform", device) or jax.default_backend()) == "gpu"


def on_cpu() -> contextlib.AbstractContextManager[Any]:
    """Return a context that traces for the CPU and puts new arrays there, whatever the backend."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return contextlib.nullcontext()


def compute_dtype(dtype: str) -> jnp.dtype:
    """Return the type of a model's arrays, given its `dtype` setting."""
    return jnp.dtype("float32" if dtype == "tensorfloat32" else dtype)


def product_precision(dtype: str, operands: DTypeLike = "float32") -> jax.lax.Precision | None:
    """Return the precision of a model's products: float32 means float32 on every backend.

    By default a GPU rounds float32 operands to TensorFloat-32 (11 significant bits), as `dtype`
    "tensorfloat32" wants. A CPU never does.
    """
    exact = operands == "float32" and dtype != "tensorfloat32"
    return jax.lax.Precision.HIGHEST if exact else None


def embed_positions(embed: Callable[[Array], Array], tokens: NgramTokens) -> Vectors:
    """Return each position's vector: the embeddings of its word and n-grams, summed.

    A third axis of ids holds a word and the n-grams that begin there, 0 for none; without it there
    are words only. Floating-point tokens are the vectors themselves: integrated gradients
    differentiate with respect to them.
    """
    if jnp.issubdtype(tokens.dtype, jnp.floating):
        return tokens
    vectors = embed(tokens)
    if tokens.ndim == 2:
        return vectors
    return jnp.sum(vectors * (tokens > 0)[..., None], axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3, 4))
def einsum(
    spec: str,
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    precision: jax.lax.Precision | None = None,
    rounds: bool = False,
) -> Float[Array, "..."]:
    """Multiply two operands in their own dtype; accumulate and return float32.

    Where the caller `rounds` the result to the operands' dtype, a GPU does so in the product
    itself, which saves writing and reading twice the bytes; a CPU's products are faster without.

    The backward pass rounds the cotangent to the operands' dtype. JAX's own rule multiplies it in
    float32, which takes a quarter of a bfloat16 training step on the CPU. Every index of `spec`
    must occur in two of the operands and the result, so that both gradients are einsums too.
    """
    a, b, out = spec.replace("->", ",").split(",")
    if next(index for index in out if (index in a) != (index in b)) in b:
        a, b, left, right = b, a, right, left  # XLA's CPU backend has no transposed bf16 product
    dtype = left.dtype if rounds and on_gpu() else jnp.float32
    return jnp.einsum(
        f"{a},{b}->{out}", left, right, precision=precision, preferred_element_type=dtype
    )


def _einsum_backward(spec, precision, _, operands, cotangent):
    left, right = operands
    a, b, out = spec.replace("->", ",").split(",")
    grad_left = einsum(f"{out},{b}->{a}", cotangent.astype(right.dtype), right, precision, True)
    grad_right = einsum(f"{a},{out}->{b}", left, cotangent.astype(left.dtype), precision, True)
    return grad_left.astype(left.dtype), grad_right.astype(right.dtype)


einsum.defvjp(lambda *arguments: (einsum(*arguments), arguments[1:3]), _einsum_backward)


class Dense(nn.Module):
    """nn.Dense over `einsum`, computed in `config.dtype` and initialized as Hugging Face does."""

    config: EncoderConfig
    features: int
    activation: Callable[[Array], Array] | None = None

    @nn.compact
    def __call__(self, inputs: Float[Array, "batch length in"]) -> Float[Array, "batch length out"]:
        """Multiply by the kernel, accumulating in float32, and add the bias, if there is one."""
        dtype = compute_dtype(self.config.dtype)
        init = nn.initializers.normal(self.config.initializer_range)
        kernel = self.param("kernel", init, (inputs.shape[-1], self.features))
        bias = jnp.zeros(())
        if self.config.biases:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
        precision = product_precision(self.config.dtype, dtype)
        inputs = inputs.astype(dtype)
        product = einsum("bli,io->blo", inputs, kernel.astype(dtype), precision, rounds=True)

        def finish(product: Array, bias: Array) -> Array:
            return (product + bias).astype(dtype)

        if self.activation is None:
            return finish(product, bias)
        # Rematerialized: only its input is stored. A GPU stores what the product has written.
        activation = self.activation
        if on_gpu():
            return jax.checkpoint(lambda *terms: activation(finish(*terms)))(product, bias)
        return jax.checkpoint(activation)(finish(product, bias))


# jax 0.12's own derivative takes twenty more operations, for the last digit of exp(-x^2). XLA then
# no longer fuses the gradient of GELU on a GPU: BERT-base's step moves 4.4 GB more
# (results/speed/gpu).
_erf = jax.custom_jvp(jax.lax.erf)
_erf.defjvps(lambda tangent, _, x: 2 / math.sqrt(math.pi) * (tangent * jnp.exp(-jnp.square(x))))


def gelu(inputs: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the exact GELU, computed in float32 by erf as in PyTorch."""
    # nn.gelu(approximate=False) uses erfc, which takes twice the time.
    x = inputs.astype(jnp.float32)
    return (0.5 * x * (1 + _erf(math.sqrt(0.5) * x))).astype(inputs.dtype)


def geglu(inputs: Float[Array, "... twice"]) -> Float[Array, "... once"]:
    """Return the GELU of the first half of the features times the second (Shazeer, 2020)."""
    activated, gate = jnp.split(inputs, 2, axis=-1)
    return gelu(activated) * gate


def layer_norm(config: EncoderConfig, name: str) -> nn.LayerNorm:
    """Return a layer normalization over the last axis, its statistics in float32."""
    # Rematerializing it saves memory and is no slower on a CPU; `remat` does so for whole layers.
    kind = nn.LayerNorm if config.remat else nn.remat(nn.LayerNorm)
    return kind(
        epsilon=config.layer_norm_eps,
        dtype=compute_dtype(config.dtype),
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits where the mean is large
        use_bias=config.biases,
        name=name,
    )


def _mix(words: Array) -> Array:
    """Map 32-bit words one to one, so that every output bit depends on every input bit.

    Constants: the two-round xorshift-multiply of least bias found by Wellons' search,
    https://github.com/skeeto/hash-prospector
    """
    words = (words ^ (words >> 16)) * jnp.uint32(0x21F0AAAD)
    words = (words ^ (words >> 15)) * jnp.uint32(0xD35A2D97)
    return words ^ (words >> 15)


def keep_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """Draw a mask of at most 2**32 elements, each False with probability `rate`, met to 2**-32.

    It is a hash of each element's index, keyed by two words of the key, which must come from
    fold_in or split: they are used as they are.
    """
    first, second = jax.random.key_data(key)[:2]
    index = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return _mix(_mix(index ^ first) + second) >= jnp.uint32(round(rate * 2**32))


def drop(
    inputs: Float[Array, "*sizes"], keep: Bool[Array, "*sizes"] | None, rate: float
) -> Float[Array, "*sizes"]:
    """Apply a mask, if there is one: zero where it is False, else scaled up."""
    if keep is None:
        return inputs
    return jnp.where(keep, inputs / (1 - rate), jnp.zeros_like(inputs))


class Dropout(nn.Module):
    """nn.Dropout with masks from `keep_mask`: zero with probability `rate`, else scaled up.

    nn.Dropout draws 32 bits per element from JAX's generators, which took half of a training step
    on the CPU. A mask of `keep_mask` costs a few integer operations per element, which XLA fuses
    with the multiplication.
    """

    rate: float
    deterministic: bool

    def mask(self, shape: tuple[int, ...]) -> Bool[Array, "..."] | None:
        """Draw a mask from the "dropout" stream; None if deterministic or the rate is 0."""
        if self.deterministic or self.rate == 0:
            return None
        return keep_mask(self.make_rng("dropout"), self.rate, shape)

    def __call__(self, inputs: Float[Array, "..."]) -> Float[Array, "..."]:
        """Draw a mask and apply it."""
        return drop(inputs, self.mask(inputs.shape), self.rate)
