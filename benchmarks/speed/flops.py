"""What a step costs in matrix products, and how fast this machine multiplies matrices."""

import functools
import math
import time
import timeit
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.speed.synthetic import abstract_batch
from sentiment_jax.models.layers import compute_dtype, on_cpu, product_precision
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.training.objectives.objective import Objective


def matmul_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Count the FLOPs of the matrix products in one call: two for a multiply-add.

    The program is traced, not run (arguments may be shapes); a scan's body counts once per step.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            out = equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = (getattr(value, "jaxpr", value) for value in equation.params.values())
        total += repeats * sum(_count(value) for value in inner if hasattr(value, "eqns"))
    return total


def training_flops(model: nn.Module, objective: Objective, shape: tuple[int, ...]) -> int:
    """Return the model FLOPs of one training step: three times the forward pass, padding included.

    The backward pass has two products for every one of the forward pass; what rematerialization
    recomputes counts once (as in Chowdhery et al., 2022, https://arxiv.org/abs/2204.02311). `shape`
    is that of the token ids.
    """
    batch = abstract_batch(*shape)
    forward = functools.partial(objective, model, key=jax.random.key(0), deterministic=True)
    with on_cpu():  # in its forms: cuDNN's calls hide their products
        return 3 * matmul_flops(forward, abstract_params(model), batch)


@functools.cache
def matmul_rate(dtype: str) -> float:
    """Return the best FLOP/s of five large square products, accumulated in float32."""
    size = 1536 if jax.default_backend() == "cpu" else 8192
    operands = compute_dtype(dtype)
    left, right = jax.random.normal(jax.random.key(0), (2, size, size)).astype(operands)
    precision = product_precision(dtype, operands)
    product = functools.partial(jnp.matmul, precision=precision, preferred_element_type=jnp.float32)
    once = functools.partial(jax.jit(product), left, right)
    once().block_until_ready()  # compiles
    seconds = timeit.repeat(lambda: once().block_until_ready(), timer=time.perf_counter, number=1)
    return 2 * size**3 / min(seconds)
