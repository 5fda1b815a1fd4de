"""What makes the LSTM fast: one product per step, and a backward pass of its own.

The plain form is flax's OptimizedLSTMCell under nn.scan; tests compare states and gradients. On a
CPU, a step multiplies input and state at once. A GPU waits for launches, not for arithmetic: there
a step is a product of the state alone and one fused kernel, UNROLL steps to an iteration.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import DenseParams
from jaxtyping import Array, Float

from sentiment_jax.models.layers import on_gpu

GATES = "ifgo"  # input, forget, candidate, output
UNROLL = 10  # positions to an iteration on a GPU
Kernel = Float[Array, "features_and_hidden gates"]
Bias = Float[Array, " gates"]
Inputs = Float[Array, "length batch features"]
States = Float[Array, "length batch hidden"]
Gates = tuple[Array, Array, Array, Array]  # i, f, g, o; all None: to be recomputed
_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


class LstmParameters(nn.Module):
    """The parameters of flax's OptimizedLSTMCell, under the same names."""

    features: int

    @nn.compact
    def __call__(self, inputs: Inputs) -> tuple[Kernel, Bias]:
        """Return the eight kernels as one, [input; state] x [i, f, g, o], and the biases."""
        xavier = nn.initializers.xavier_uniform()
        orthogonal = nn.initializers.orthogonal()
        states = jnp.zeros((1, self.features))
        from_inputs = []
        from_states = []
        biases: list[Any] = []
        for gate in GATES:
            dense = DenseParams(self.features, use_bias=False, kernel_init=xavier, name="i" + gate)
            from_inputs.append(dense(inputs)[0])
            dense = DenseParams(self.features, kernel_init=orthogonal, name="h" + gate)
            kernel, bias = dense(states)
            from_states.append(kernel)
            biases.append(bias)
        sides = [jnp.concatenate(side, axis=1) for side in (from_inputs, from_states)]
        return jnp.concatenate(sides), jnp.concatenate(biases)


def _activate(sums: Float[Array, "*rows gates"]) -> Gates:
    """Return the activated gates i, f, g, o."""
    i, f, g, o = jnp.split(sums, 4, axis=-1)
    return nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scan(kernel: Kernel, bias: Bias, inputs: Inputs, precision: jax.lax.Precision | None) -> States:
    """Return the hidden state after every position, from a zero state.

    Products are taken in the inputs' dtype, all else in float32.
    """
    return _states_and_residuals(kernel, bias, inputs, precision)[0]


def _states_and_residuals(
    kernel: Kernel, bias: Bias, inputs: Inputs, precision: jax.lax.Precision | None
) -> tuple[States, Any]:
    """Return also what the backward pass needs: c before each step, on a CPU the gates."""
    dtype = inputs.dtype
    features = inputs.shape[-1]
    product = functools.partial(_product, precision=precision)
    weights = kernel.astype(dtype)
    gpu = on_gpu()

    def step(carry: tuple[Array, Array], at: Array) -> Any:
        c, h = carry
        if gpu:  # the inputs' products are taken before the scan, for all positions at once
            sums = at + product(h, weights[features:])
        else:
            sums = product(jnp.concatenate([at, h], axis=-1), weights) + bias
        i, f, g, o = gates = _activate(sums)
        new_c = f * c + i * g
        new_h = (o * jnp.tanh(new_c)).astype(dtype)
        # The backward pass of a GPU recomputes the gates, in one product for all positions.
        stored = None if gpu else tuple(gate.astype(dtype) for gate in gates)
        return (new_c, new_h), (new_h, c, stored)

    zeros = jnp.zeros((inputs.shape[1], kernel.shape[1] // 4))
    carry = (zeros, zeros.astype(dtype))
    steps = product(inputs, weights[:features]) + bias if gpu else inputs
    unroll = UNROLL if gpu else 1
    _, (states, memory, gates) = jax.lax.scan(step, carry, steps, unroll=unroll)
    return states, (kernel, bias, inputs, states, memory, gates)


def _gradients(
    precision: jax.lax.Precision | None, residuals: Any, state_gradients: States
) -> tuple[Kernel, Bias, Inputs]:
    """Backpropagation through time.

    The scan computes only the gradients of each step's gates and of the state before it. Those of
    inputs and kernels follow as single products over all steps, where JAX's transposed scan makes
    four products per step and carries the sums of the kernels' gradients along.
    """
    kernel, bias, inputs, states, memory, gates = residuals  # memory: c before each step
    dtype = inputs.dtype
    features = inputs.shape[-1]
    product = functools.partial(_product, precision=precision)
    kernel = kernel.astype(dtype)
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
    axes = (0, 1)  # sums run over positions and rows
    kernel_gradient = jnp.tensordot(
        both, dgates, (axes, axes), precision=precision, preferred_element_type=jnp.float32
    )
    bias_gradient = jnp.sum(dgates, axis=axes, dtype=jnp.float32)
    return kernel_gradient, bias_gradient, product(dgates, to_inputs).astype(dtype)


scan.defvjp(_states_and_residuals, _gradients)


class ScannedLstm(nn.Module):
    """One direction of an LSTM."""

    features: int
    precision: jax.lax.Precision | None = None

    @nn.compact
    def __call__(self, inputs: Inputs) -> States:
        """Return the hidden state after every position."""
        kernel, bias = LstmParameters(self.features, name="cell")(inputs)
        return scan(kernel, bias, inputs, self.precision)
