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

    Two differences make it cheaper: one matrix product for input and state together, and the
    memory and the gates are given out as well, for the backward pass.
    """

    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self,
        carry: tuple[Float[Array, "batch hidden"], Float[Array, "batch hidden"]],
        inputs: Float[Array, "batch features"],
    ) -> Any:
        """Returns the new (c, h), and that with the activated gates i, f, g, o side by side."""
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
        product = jnp.concatenate([inputs, h], axis=-1) @ kernel.astype(self.dtype)
        i, f, g, o = jnp.split(product + bias.astype(self.dtype), 4, axis=-1)
        i, f, g, o = nn.sigmoid(i), nn.sigmoid(f), jnp.tanh(g), nn.sigmoid(o)
        c = f * c + i * g
        h = o * jnp.tanh(c)
        return (c, h), (c, h, jnp.concatenate([i, f, g, o], axis=-1))


def _join(kernels: dict[str, Array]) -> Float[Array, "features_and_hidden gates"]:
    """The eight kernels of a cell as one: [input; state] x [i, f, g, o]."""
    sides = [jnp.concatenate([kernels[side + gate] for gate in GATES], axis=1) for side in "ih"]
    return jnp.concatenate(sides)


def _scan(cell: nn.Module, inputs: Float[Array, "length batch features"]) -> Any:
    zeros = jnp.zeros((inputs.shape[1], cell.features), inputs.dtype)
    return cell((zeros, zeros), inputs)[1]


def _states(cell: nn.Module, inputs: Float[Array, "length batch features"]) -> Array:
    return _scan(cell, inputs)[1]


def _states_and_residuals(
    cell: nn.Module, inputs: Float[Array, "length batch features"]
) -> tuple[Array, Any]:
    memory, states, gates = _scan(cell, inputs)
    return states, (cell.variables["params"], inputs, memory, states, gates)


def _gradients(residuals: Any, state_gradients: Array) -> tuple[Any, Array]:
    """Backpropagation through time: two matrix products a step, all gates at once.

    Written out because JAX's transposed scan makes four products and recomputes or stores more.
    """
    params, inputs, memory, states, gates = residuals
    features = inputs.shape[-1]
    kernel = _join({name: leaf["kernel"] for name, leaf in params.items()}).astype(inputs.dtype)

    def step_back(carry: Any, at: Any) -> Any:
        dc, dh, kernel_sum, bias_sum = carry
        x, c_before, h_before, c, gate, dstate = at
        i, f, g, o = jnp.split(gate, 4, axis=-1)
        tanh_c = jnp.tanh(c)
        dh = dh + dstate
        dc = dc + dh * o * (1 - tanh_c * tanh_c)
        di, df = dc * g * i * (1 - i), dc * c_before * f * (1 - f)
        dg, do = dc * i * (1 - g * g), dh * tanh_c * o * (1 - o)
        dgates = jnp.concatenate([di, df, dg, do], axis=-1)
        dx, dh = jnp.split(dgates @ kernel.T, [features], axis=-1)
        kernel_sum += jnp.matmul(
            jnp.concatenate([x, h_before], axis=-1).T, dgates, preferred_element_type=jnp.float32
        )
        return (dc * f, dh, kernel_sum, bias_sum + jnp.sum(dgates, axis=0, dtype=jnp.float32)), dx

    def shifted(values: Array) -> Array:  # what each step started from
        return jnp.concatenate([jnp.zeros_like(values[:1]), values[:-1]])

    zeros = jnp.zeros_like(states[0])
    start = (zeros, zeros, jnp.zeros(kernel.shape), jnp.zeros(kernel.shape[1]))
    steps = (inputs, shifted(memory), shifted(states), memory, gates, state_gradients)
    (_, _, kernel_sum, bias_sum), input_gradients = jax.lax.scan(
        step_back, start, steps, reverse=True
    )
    gradients = {}
    parts = zip(GATES, jnp.split(kernel_sum, 4, axis=1), jnp.split(bias_sum, 4), strict=True)
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
        embedded = embed(token_ids)
        embedded = Dropout(config.embedding_dropout, deterministic)(embedded)
        embedded = jnp.swapaxes(embedded, 0, 1).astype(dtype)  # scans run along the first axis
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
