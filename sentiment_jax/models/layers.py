"""The encoder's products, dense layer, GELU and layer norm, as fast as they are exact."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sentiment_jax.config import EncoderConfig


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
