import functools

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sentiment_jax.config.schema import POOLINGS, LstmConfig
from sentiment_jax.models.layers import Dropout
from sentiment_jax.models.lstm import LstmClassifier, layerwise_multipliers
from sentiment_jax.models.lstm_scan import ScannedLstm
from sentiment_jax.training.parameters import abstract_params

LENGTHS = np.array([7, 1, 4], np.int32)


def logits(model, params, ids, key=None):
    batch = {"token_ids": jnp.asarray(ids), "lengths": jnp.asarray(LENGTHS)}
    return np.asarray(golden.logits(model, params, batch, key))


def with_words_as_padding(ids):
    """Rows that are longer by five, a word wherever nothing is to be read."""
    wide = np.full((3, 12, *ids.shape[2:]), 49, np.int32)
    for row, length in enumerate(LENGTHS):
        wide[row, :length] = ids[row, :length]
    return wide


def make(**options):
    model = LstmClassifier(LstmConfig(**{"vocab_size": 50, **options}))
    ids = np.random.default_rng(0).integers(1, 50, (3, 7)).astype(np.int32)
    ids[np.arange(7) >= LENGTHS[:, None]] = 0
    return model, golden.random(model), ids


def test_parameter_names_and_shapes_of_the_study():
    model = LstmClassifier(LstmConfig(vocab_size=1000))
    flat = traverse_util.flatten_dict(abstract_params(model), sep="/")
    flat = {name: leaf.shape for name, leaf in flat.items()}
    expected = {
        "embedding/embedding": (1000, 100),
        "dense/kernel": (64, 128),
        "dense/bias": (128,),
        "classifier/kernel": (128, 2),
        "classifier/bias": (2,),
    }
    for gate in "ifgo":
        expected[f"forward/cell/i{gate}/kernel"] = (100, 64)
        expected[f"forward/cell/h{gate}/kernel"] = (64, 64)
        expected[f"forward/cell/h{gate}/bias"] = (64,)
    assert flat == expected


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_lstm(params, inputs):
    """States after every position of one row, as Hochreiter's equations say."""
    cell = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["cell"])
    h = c = np.zeros(cell["hi"]["bias"].shape)
    states = []
    for x in inputs:
        gates = {
            g: x @ cell[f"i{g}"]["kernel"] + h @ cell[f"h{g}"]["kernel"] + cell[f"h{g}"]["bias"]
            for g in "ifgo"
        }
        c = sigmoid(gates["f"]) * c + sigmoid(gates["i"]) * np.tanh(gates["g"])
        h = sigmoid(gates["o"]) * np.tanh(c)
        states.append(h)
    return np.array(states)


KINDS = [(pooling, both_ways, 0) for pooling in POOLINGS for both_ways in (False, True)]


@pytest.mark.parametrize(
    ("pooling", "bidirectional", "segment_length"), [*KINDS, ("mean_max", True, 3)]
)
def test_equals_a_plain_numpy_loop(pooling, bidirectional, segment_length):
    """Segments are read apart and pooled together; padding adds nothing."""
    settings = {"pooling": pooling, "bidirectional": bidirectional}
    model, params, ids = make(segment_length=segment_length, **settings)
    actual = logits(model, params, ids)
    np.testing.assert_array_equal(actual, logits(model, params, with_words_as_padding(ids)))
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for row, length in enumerate(LENGTHS):
        embedded = p["embedding"]["embedding"][ids[row, :length]]
        size = segment_length or length
        pooled = []
        for name, way in (("forward", 1), ("backward", -1)):
            if name in params:
                segments = [
                    embedded[start : start + size][::way] for start in range(0, length, size)
                ]
                states = np.concatenate([plain_lstm(params[name], part) for part in segments])
                parts = {"last": states[-1], "mean": states.mean(0), "max": states.max(0)}
                names = ["mean", "max"] if pooling == "mean_max" else [pooling]
                pooled += [parts[part] for part in names]
        hidden = np.concatenate(pooled) @ p["dense"]["kernel"] + p["dense"]["bias"]
        expected = np.maximum(hidden, 0) @ p["classifier"]["kernel"] + p["classifier"]["bias"]
        np.testing.assert_allclose(actual[row], expected, atol=1e-5)


def test_word_dropout_makes_words_unknown_in_training_alone():
    model, params, ids = make(word_dropout=0.999, output_dropout=0.0)
    unknown = logits(model, params, np.ones_like(ids))
    np.testing.assert_array_equal(logits(model, params, ids, jax.random.key(0)), unknown)
    assert np.any(logits(model, params, ids) != unknown)


def with_ngrams(ids, seed=1):
    """The ids of n-grams beside those of some words, none beside padding."""
    rng = np.random.default_rng(seed)
    ngrams = rng.integers(1, 50, (*ids.shape, 2)) * (rng.random((*ids.shape, 2)) < 0.6)
    ngrams *= (ids > 0)[:, :, None]
    return np.concatenate([ids[:, :, None], ngrams], axis=2).astype(np.int32)


@pytest.mark.parametrize("segment_length", [0, 3])
def test_an_ngrams_embedding_is_added_where_it_begins(segment_length):
    """As words do that have the sums as embeddings; id 0 adds nothing, whatever its embedding."""
    model, params, ids = make(pooling="mean_max", segment_length=segment_length)
    ngrams = with_ngrams(ids)
    table = np.asarray(params["embedding"]["embedding"])
    sums = np.sum(table[ngrams] * (ngrams > 0)[..., None], axis=2).reshape(-1, table.shape[1])
    assert np.abs(table[0]).min() > 0
    params["embedding"]["embedding"] = jnp.asarray(np.pad(sums, ((0, 50 - len(sums)), (0, 0))))
    expected = logits(model, params, np.arange(ids.size).reshape(ids.shape))
    params["embedding"]["embedding"] = jnp.asarray(table)
    np.testing.assert_allclose(logits(model, params, ngrams), expected, atol=1e-6)
    assert np.abs(logits(model, params, ids) - expected).min() > 1e-4


def test_ngrams_in_padding_change_no_logit_and_are_dropped_with_their_word():
    model, params, ids = make(word_dropout=0.999, output_dropout=0.0)
    ngrams = with_ngrams(ids)
    wide = with_words_as_padding(ngrams)
    np.testing.assert_array_equal(logits(model, params, ngrams), logits(model, params, wide))
    unknown = logits(model, params, np.ones_like(ids))
    dropped = logits(model, params, ngrams, jax.random.key(0))
    np.testing.assert_allclose(dropped, unknown, atol=1e-6)


def test_a_seed_draws_the_masks_that_it_drew():
    """Flax folds a module's name into its key: renamed, old runs could not be repeated."""
    model, params, ids = make()
    names = []

    def note(next_function, args, kwargs, context):
        if isinstance(context.module, Dropout) and context.method_name == "__call__":
            names.append(context.module.name)
        return next_function(*args, **kwargs)

    with nn.intercept_methods(note):
        logits(model, params, ids, jax.random.key(0))
    assert names == ["Dropout_0", "Dropout_1"]


def test_layerwise_multipliers():
    _, params, _ = make(bidirectional=True)
    multipliers = layerwise_multipliers(params, 0.5)
    found = {name: set(jax.tree.leaves(part)) for name, part in multipliers.items()}
    expected = {"embedding": {0.25}, "forward": {0.5}, "backward": {0.5}}
    assert found == {**expected, "dense": {1.0}, "classifier": {1.0}}


class FlaxLstm(nn.Module):
    """flax's own cell, scanned and differentiated by JAX: what ScannedLstm must equal."""

    @nn.compact
    def __call__(self, inputs):
        scanned = nn.scan(
            nn.OptimizedLSTMCell, variable_broadcast="params", split_rngs={"params": False}
        )
        zeros = jnp.zeros((inputs.shape[1], 8))
        return scanned(8, name="cell")((zeros, zeros), inputs)[1]


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_states_and_gradients_equal_those_of_flax(backend, monkeypatch):
    """In both forms; the length is no multiple of the unrolled steps."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    rng = np.random.default_rng(0)
    inputs, wanted = jnp.asarray(rng.normal(size=(2, 24, 3, 8)), jnp.float32)
    shapes = jax.eval_shape(FlaxLstm().init, jax.random.key(0), inputs)["params"]
    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape), jnp.float32), shapes
    )

    @functools.partial(jax.jit, static_argnums=0)
    def states_and_gradients(module, params, inputs):
        states, pullback = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, inputs)
        return states, pullback(wanted)

    states, actual = states_and_gradients(ScannedLstm(8, jnp.dtype("float32")), params, inputs)
    plain_states, expected = states_and_gradients(FlaxLstm(), params, inputs)
    np.testing.assert_allclose(states, plain_states, atol=1e-6)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, atol=1e-5 * np.abs(e).max()),
        actual,
        expected,
    )


def test_dropout_acts_only_in_training():
    model, params, ids = make(embedding_dropout=0.5)
    np.testing.assert_array_equal(logits(model, params, ids), logits(model, params, ids))
    noisy = [logits(model, params, ids, golden.key(k)) for k in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert not np.array_equal(noisy[0], noisy[2])


def test_bfloat16_stays_close_and_logits_are_float32():
    model, params, ids = make()
    half = LstmClassifier(LstmConfig(vocab_size=50, dtype="bfloat16"))
    actual = logits(half, params, ids)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, logits(model, params, ids), atol=0.1)
