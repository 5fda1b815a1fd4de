"""An LSTM review classifier; the defaults are the study's network.

Word embedding 100, one LSTM of 64 units, its state after the last valid word, dropout 0.3, a dense
layer of 128 with ReLU, two logits; Xavier initial weights. Pooling over all states and a second
direction follow Johnson & Zhang (2016), https://arxiv.org/abs/1602.02373.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.recurrent import DenseParams
from jaxtyping import Array, Float, Int

from sentiment_jax.models.dropout import Dropout

POOLINGS = ("last", "mean", "max", "mean_max")
GATES = "ifgo"  # input, forget, candidate, output


@dataclasses.dataclass(frozen=True)
class LstmConfig:
    """Sizes and rates of an LstmClassifier; vocab_size comes from the tokenizer."""

    vocab_size: int
    embedding_size: int = 100
    hidden_size: int = 64
    dense_size: int = 128
    bidirectional: bool = False
    pooling: str = "last"
    embedding_dropout: float = 0.0
    output_dropout: float = 0.3
    dtype: str = "float32"


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


def reverse_valid(
    inputs: Float[Array, "length batch features"], lengths: Int[Array, " batch"]
) -> Float[Array, "length batch features"]:
    """Reverses the first `lengths` positions of every row; the padding stays where it is."""
    position = jnp.arange(inputs.shape[0])[:, None]
    source = jnp.where(position < lengths, lengths - 1 - position, position)
    return jnp.take_along_axis(inputs, source[:, :, None], axis=0)


def pool(
    states: Float[Array, "length batch hidden"], lengths: Int[Array, " batch"], pooling: str
) -> Float[Array, "batch pooled"]:
    """Reduces the valid states of every row to one vector.

    Args:
      states: hidden states.
      lengths: valid positions per row, at least 1.
      pooling: last | mean | max | mean_max (the two side by side).

    Returns:
      The pooled states; twice as wide for mean_max.
    """
    if pooling == "last":
        return jnp.take_along_axis(states, (lengths - 1)[None, :, None], axis=0)[0]
    valid = (jnp.arange(states.shape[0])[:, None] < lengths)[:, :, None]
    mean = jnp.sum(states * valid, axis=0) / lengths[:, None].astype(states.dtype)
    if pooling == "mean":
        return mean
    maximum = jnp.max(jnp.where(valid, states, jnp.finfo(states.dtype).min), axis=0)
    if pooling == "max":
        return maximum
    if pooling == "mean_max":
        return jnp.concatenate([mean, maximum], axis=-1)
    raise ValueError(f"unknown pooling {pooling!r}: one of {', '.join(POOLINGS)}")


class LstmClassifier(nn.Module):
    """Embedding, LSTM, pooling, dense layer, logits. Padding never changes a logit."""

    config: LstmConfig

    @nn.compact
    def __call__(
        self,
        token_ids: Int[Array, "batch length"],
        lengths: Int[Array, " batch"],
        *,
        deterministic: bool = True,
    ) -> Float[Array, "batch 2"]:
        """Returns float32 logits (negative, positive); dropout acts unless deterministic."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        xavier = nn.initializers.xavier_uniform()
        embed = nn.Embed(
            config.vocab_size,
            config.embedding_size,
            embedding_init=xavier,
            name="embedding",
        )
        embedded = embed(token_ids.T)  # scans run along the first axis
        embedded = Dropout(config.embedding_dropout, deterministic)(embedded).astype(dtype)
        states = ScannedLstm(config.hidden_size, dtype, name="forward")(embedded)
        pooled = pool(states, lengths, config.pooling)
        if config.bidirectional:
            backward = ScannedLstm(config.hidden_size, dtype, name="backward")
            states = backward(reverse_valid(embedded, lengths))
            pooled = jnp.concatenate([pooled, pool(states, lengths, config.pooling)], axis=-1)
        pooled = Dropout(config.output_dropout, deterministic)(pooled)
        hidden = nn.Dense(config.dense_size, kernel_init=xavier, dtype=dtype, name="dense")(pooled)
        classifier = nn.Dense(2, kernel_init=xavier, name="classifier")
        return classifier(nn.relu(hidden).astype(jnp.float32))
