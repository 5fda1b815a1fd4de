"""What a step costs in matrix products, and how fast this machine multiplies matrices."""

import functools
import math
import timeit
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from sentiment_jax.training.experiment import abstract_params
from sentiment_jax.training.steps import forward


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Count the FLOPs of the matrix products in one call: two for a multiply-add.

    They are counted in the traced program, whatever the model is; the body of a scan counts as
    often as it runs. Nothing is computed: arguments may be shapes.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = (getattr(value, "jaxpr", value) for value in equation.params.values())
        total += repeats * sum(_count(value) for value in inner if hasattr(value, "eqns"))
    return total


def training_flops(model: nn.Module, batch_size: int, length: int) -> int:
    """Return the model FLOPs of one training step: three times the forward pass, padding included.

    The backward pass has two products for every one of the forward pass; what rematerialisation
    recomputes counts once (as in Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311).
    """
    batch = {
        "token_ids": jax.ShapeDtypeStruct((batch_size, length), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    deterministic = functools.partial(forward, model, deterministic=True)
    return 3 * matmul_flops(deterministic, abstract_params(model), batch)


@functools.cache
def matmul_rate(dtype: str, repeats: int = 5) -> float:
    """Return the FLOP/s of a large square product, accumulated in float32, on one device.

    The best of a few, half a second on two CPU cores: the ceiling that a step is held against.
    """
    size = 1536 if jax.default_backend() == "cpu" else 8192
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    multiply = functools.partial(product, left, right)
    multiply().block_until_ready()
    seconds = timeit.repeat(lambda: multiply().block_until_ready(), number=1, repeat=repeats)
    return 2 * size**3 / min(seconds)
