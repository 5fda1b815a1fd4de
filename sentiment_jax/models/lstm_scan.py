"""A fast LSTM: one product per step, and a backward pass of its own.

The plain form is flax's OptimizedLSTMCell under nn.scan; tests compare states and gradients. A GPU
waits for launches, not for arithmetic: there a step is a product of the state alone and one fused
kernel, UNROLL steps to an iteration.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sentiment_jax.models.layers import on_gpu

GATES = "ifgo"  # input, forget, candidate, output
UNROLL = 10  # positions to an iteration on a GPU
SUMMED = (0, 1)  # the axes of positions and rows, over which gradients of parameters are sums
_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
_summed_product = functools.partial(
    jnp.tensordot, axes=(SUMMED, SUMMED), preferred_element_type=jnp.float32
)


class LstmCell(nn.Module):
    """One step of an LSTM, with the parameters of flax's OptimizedLSTMCell under the same names.

    Two differences make it cheaper: input and state share one matrix product, and the cell also
    returns the backward pass's residuals. Products are taken in `dtype`, all else in float32.
    """

    features: int
    dtype: jnp.dtype
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]],
        inputs: Float[Array, "batch features"],
    ) -> Any:
        """Return the new (c, h), and: new h, old c, the activated gates i, f, g, o."""
        c, h = carry
        xavier = nn.initializers.xavier_uniform()
        orthogonal = nn.initializers.orthogonal()
        if self.is_initializing():  # for their parameters; the products are taken below
            for gate in GATES:
                nn.Dense(self.features, use_bias=False, kernel_init=xavier, name="i" + gate)(inputs)
                nn.Dense(self.features, kernel_init=orthogonal, name="h" + gate)(h)
        kernel, bias = _join(self.variables["params"], self.dtype)
        both = jnp.concatenate([inputs, h], axis=-1)
        gates = _activate(_product(both, kernel, precision=self.precision) + bias)
        new_c, new_h = _advance(c, gates, self.dtype)
        return (new_c, new_h), (new_h, c, tuple(gate.astype(self.dtype) for gate in gates))


def _activate(sums: Float[Array, "*rows gates"]) -> tuple[Array, Array, Array, Array]:
    """Return the activated gates i, f, g, o."""
    i, f, g, o = jnp.split(sums, 4, axis=-1)
    return nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)


def _advance(c: Array, gates: tuple[Array, ...], dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return the new c and h."""
    i, f, g, o = gates
    new_c = f * c + i * g
    return new_c, (o * jnp.tanh(new_c)).astype(dtype)


def _join(
    params: Any, dtype: jnp.dtype
) -> tuple[Float[Array, "features_and_hidden gates"], Float[Array, " gates"]]:
    """Return the eight kernels of a cell as one, [input; state] x [i, f, g, o], and the biases."""
    sides = [
        jnp.concatenate([params[side + gate]["kernel"] for gate in GATES], axis=1) for side in "ih"
    ]
    bias = jnp.concatenate([params["h" + gate]["bias"] for gate in GATES])
    return jnp.concatenate(sides).astype(dtype), bias


def _states_and_residuals(
    cell: nn.Module, inputs: Float[Array, "length batch features"]
) -> tuple[Array, Any]:
    zeros = jnp.zeros((inputs.shape[1], cell.features))
    carry = (zeros, zeros.astype(inputs.dtype))
    if not on_gpu() or cell.is_initializing():
        _, (states, memory, gates) = cell(carry, inputs)
        return states, (cell.variables["params"], inputs, states, memory, gates)
    params = cell.variables["params"]
    kernel, bias = _join(params, cell.dtype)
    features = inputs.shape[-1]
    product = functools.partial(_product, precision=cell.precision)

    def step(carry: tuple[Array, Array], sums: Array) -> Any:
        c, h = carry
        sums = sums + product(h, kernel[features:])
        new_c, new_h = _advance(c, _activate(sums), cell.dtype)
        return (new_c, new_h), (new_h, c)

    sums = product(inputs, kernel[:features]) + bias
    _, (states, memory) = jax.lax.scan(step, carry, sums, unroll=UNROLL)
    # The backward pass recomputes the gates, in one product for all positions.
    return states, (params, inputs, states, memory, None)


def _gradients(
    precision: jax.lax.Precision | None, residuals: Any, state_gradients: Array
) -> tuple[Any, Array]:
    """Backpropagation through time.

    The scan computes only the gradients of each step's gates and of the state before it. Gradients
    of inputs and kernels follow as single products over all steps: JAX's transposed scan makes four
    products per step and carries the sums of the kernels' gradients along.
    """
    params, inputs, states, memory, gates = residuals  # memory: c before each step
    dtype = inputs.dtype
    features = inputs.shape[-1]
    product = functools.partial(_product, precision=precision)
    kernel, bias = _join(params, dtype)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    both = jnp.concatenate([inputs, before], axis=-1)
    if gates is None:
        gates = _activate(product(both, kernel) + bias)
    # Transposed outside the scan: inside, XLA's CPU backend takes the product in float32.
    to_inputs = kernel[:features].T
    to_states = kernel[features:].T

    def step_back(carry: tuple[Array, Array], at: Any) -> Any:
        dc, dh = carry
        c, gates, dstate = at
        i, f, g, o = (gate.astype(jnp.float32) for gate in gates)
        tanh_c = jnp.tanh(f * c + i * g)
        dh = dh + dstate
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        di = dc * g * i * (1 - i)
        df = dc * c * f * (1 - f)
        dg = dc * i * (1 - g * g)
        do = dh * tanh_c * o * (1 - o)
        dgates = jnp.concatenate([di, df, dg, do], axis=-1).astype(dtype)
        return (dc * f, product(dgates, to_states)), dgates

    zeros = jnp.zeros(memory.shape[1:])
    steps = (memory, gates, state_gradients)
    unroll = UNROLL if on_gpu() else 1
    dgates = jax.lax.scan(step_back, (zeros, zeros), steps, reverse=True, unroll=unroll)[1]
    input_gradients = product(dgates, to_inputs).astype(dtype)
    kernels = jnp.split(_summed_product(both, dgates, precision=precision), 4, axis=1)
    biases = jnp.split(jnp.sum(dgates, axis=SUMMED, dtype=jnp.float32), 4)
    gradients = {}
    for gate, kernel, bias in zip(GATES, kernels, biases, strict=True):
        gradients["i" + gate] = {"kernel": kernel[:features]}
        gradients["h" + gate] = {"kernel": kernel[features:], "bias": bias}
    return {"params": gradients}, input_gradients


class ScannedLstm(nn.Module):
    """One direction of an LSTM: nn.scan over the cell, all positions sharing its parameters."""

    features: int
    dtype: jnp.dtype
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "length batch features"]
    ) -> Float[Array, "length batch hidden"]:
        """Return the hidden state after every position."""
        scanned_cell = nn.scan(LstmCell, variable_broadcast="params", split_rngs={"params": False})
        run = nn.custom_vjp(
            lambda *operands: _states_and_residuals(*operands)[0],
            _states_and_residuals,
            functools.partial(_gradients, self.precision),
        )
        cell = scanned_cell(self.features, self.dtype, self.precision, name="cell")
        return jnp.asarray(run(cell, inputs))
