"""Dropout whose masks cost a few integer operations per element.

nn.Dropout draws 32 bits per element from JAX's generators, which took half of a training step on
the CPU. Here the mask is a hash of the element's index, keyed by two words of a JAX key. It depends
on key and shape alone, and XLA fuses it with the multiplication.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


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

    The key must come from fold_in or split, since its words are used as they are.
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
    """nn.Dropout with masks from `keep_mask`: zero with probability `rate`, else scaled up."""

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
