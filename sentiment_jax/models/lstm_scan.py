"""The LSTM's scan and its own backward pass."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import DenseParams
from jaxtyping import Array, Float

GATES = "ifgo"  # input, forget, candidate, output


class LstmCell(nn.Module):
    """One step of an LSTM: flax's OptimizedLSTMCell, its parameters and their names.

    Two differences make it cheaper: one matrix product for input and state together, and what the
    backward pass needs is given out as well. Products are taken in `dtype`, all else in float32.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]],
        inputs: Float[Array, "batch features"],
    ) -> Any:
        """Returns the new (c, h), and: new h, old c, the activated gates i, f, g, o."""
        c, h = carry
        initializers = {"i": nn.initializers.xavier_uniform(), "h": nn.initializers.orthogonal()}
        parameters: dict[str, Any] = {
            side + gate: DenseParams(
                self.features,
                use_bias=side == "h",
                param_dtype=jnp.float32,
                kernel_init=initializers[side],
                name=side + gate,
            )(source)
            for gate in GATES
            for side, source in (("i", inputs), ("h", h))
        }
        kernel = _join({name: kernel for name, (kernel, _) in parameters.items()})
        bias = jnp.concatenate([parameters["h" + gate][1] for gate in GATES])
        product = _product(jnp.concatenate([inputs, h], axis=-1), kernel.astype(self.dtype))
        i, f, g, o = jnp.split(product + bias, 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        new_c = f * c + i * g
        new_h = (o * jnp.tanh(new_c)).astype(self.dtype)
        gates = tuple(gate.astype(self.dtype) for gate in (i, f, g, o))
        return (new_c, new_h), (new_h, c, gates)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _join(kernels: dict[str, Array]) -> Float[Array, "features_and_hidden gates"]:
    """The eight kernels of a cell as one: [input; state] x [i, f, g, o]."""
    sides = [jnp.concatenate([kernels[side + gate] for gate in GATES], axis=1) for side in "ih"]
    return jnp.concatenate(sides)


def _scan(cell: nn.Module, inputs: Float[Array, "length batch features"]) -> Any:
    zeros = jnp.zeros((inputs.shape[1], cell.features))
    return cell((zeros, zeros.astype(inputs.dtype)), inputs)[1]


def _states(cell: nn.Module, inputs: Float[Array, "length batch features"]) -> Array:
    return _scan(cell, inputs)[0]


def _states_and_residuals(
    cell: nn.Module, inputs: Float[Array, "length batch features"]
) -> tuple[Array, Any]:
    states, *residuals = _scan(cell, inputs)
    return states, (cell.variables["params"], inputs, states, *residuals)


def _gradients(residuals: Any, state_gradients: Array) -> tuple[Any, Array]:
    """Backpropagation through time: a step finds the gradient of its gates and of the state before.

    Those of the inputs and kernels are single products over all steps, taken afterwards: JAX's
    transposed scan would make four products a step and carry the kernels' sums along.
    """
    params, inputs, states, memory, gates = residuals  # memory: before each step
    dtype, features = inputs.dtype, inputs.shape[-1]
    kernel = _join({name: leaf["kernel"] for name, leaf in params.items()}).astype(dtype)
    # Turned round outside the scan: inside, XLA's CPU backend makes a float32 product of it.
    to_inputs, to_states = kernel[:features].T, kernel[features:].T

    def step_back(carry: tuple[Array, Array], at: Any) -> Any:
        dc, dh = carry
        c, gates, dstate = at
        i, f, g, o = (gate.astype(jnp.float32) for gate in gates)
        tanh_c = jnp.tanh(f * c + i * g)
        dh = dh + dstate
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        di, df = dc * g * i * (1 - i), dc * c * f * (1 - f)
        dg, do = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        dgates = jnp.concatenate([di, df, dg, do], axis=-1).astype(dtype)
        return (dc * f, _product(dgates, to_states)), dgates

    zeros = jnp.zeros(memory.shape[1:])
    steps = memory, gates, state_gradients
    dgates = jax.lax.scan(step_back, (zeros, zeros), steps, reverse=True)[1]
    input_gradients = _product(dgates, to_inputs).astype(dtype)
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    kernel_gradients = jnp.tensordot(
        jnp.concatenate([inputs, before], axis=-1),
        dgates,
        axes=((0, 1), (0, 1)),
        preferred_element_type=jnp.float32,
    )
    bias_gradients = jnp.sum(dgates, axis=(0, 1), dtype=jnp.float32)
    gradients = {}
    parts = zip(
        GATES, jnp.split(kernel_gradients, 4, axis=1), jnp.split(bias_gradients, 4), strict=True
    )
    for gate, both_kernels, gate_bias in parts:
        gradients["i" + gate] = {"kernel": both_kernels[:features]}
        gradients["h" + gate] = {"kernel": both_kernels[features:], "bias": gate_bias}
    return {"params": gradients}, input_gradients


class ScannedLstm(nn.Module):
    """One direction of an LSTM: nn.scan over the cell, parameters shared by all positions."""

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, inputs: Float[Array, "length batch features"]
    ) -> Float[Array, "length batch hidden"]:
        """Returns the hidden state after every position."""
        scanned_cell = nn.scan(LstmCell, variable_broadcast="params", split_rngs={"params": False})
        run = nn.custom_vjp(_states, _states_and_residuals, _gradients)
        return jnp.asarray(run(scanned_cell(self.features, self.dtype, name="cell"), inputs))
