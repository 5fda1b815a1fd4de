"""The LSTM against a plain loop and Flax's; padding, n-grams, dropout and precision."""

import dataclasses
import functools

import flax.linen as nn
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from sentiment_jax.config.schema import POOLINGS, LstmConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.models.lstm_scan import ScannedLstm
from sentiment_jax.models.parameters import count_parameters

LENGTHS = np.array([7, 1, 4], np.int32)
WIDTH = 11  # padded, and no multiple of a segment's three words
PADDING = np.arange(WIDTH) >= LENGTHS[:, None]


def logits(model, params, ids, key=None):
    batch = {"token_ids": jnp.asarray(ids), "lengths": jnp.asarray(LENGTHS)}
    return np.asarray(golden.logits(model, params, batch, key))


def with_words_as_padding(ids):
    """The rows with a word wherever nothing is to be read."""
    return np.where(PADDING if ids.ndim == 2 else PADDING[:, :, None], 49, ids)


def make(**options):
    model = LstmClassifier(LstmConfig(**{"vocab_size": 50, **options}))
    ids = np.random.default_rng(0).integers(1, 50, (3, WIDTH)).astype(np.int32)
    ids[PADDING] = 0
    return model, golden.random(model), ids


def test_the_number_of_parameters_is_that_of_the_studys_network():
    sizes = 1000 * 100 + 4 * (100 + 64 + 1) * 64 + (64 + 1) * 128 + (128 + 1) * 2
    assert count_parameters(LstmClassifier(LstmConfig(vocab_size=1000))) == sizes


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
        c = expit(gates["f"]) * c + expit(gates["i"]) * np.tanh(gates["g"])
        h = expit(gates["o"]) * np.tanh(c)
        states.append(h)
    return np.array(states)


@pytest.mark.parametrize(
    ("pooling", "bidirectional", "segment_length"),
    [("last", False, 0), *((pooling, True, 0) for pooling in POOLINGS), ("mean_max", True, 3)],
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
                segments = [embedded[i : i + size][::way] for i in range(0, length, size)]
                states = np.concatenate([plain_lstm(params[name], part) for part in segments])
                parts = {"last": states[-1], "mean": states.mean(0), "max": states.max(0)}
                names = ["mean", "max"] if pooling == "mean_max" else [pooling]
                pooled += [parts[part] for part in names]
        hidden = np.concatenate(pooled) @ p["dense"]["kernel"] + p["dense"]["bias"]
        expected = np.maximum(hidden, 0) @ p["classifier"]["kernel"] + p["classifier"]["bias"]
        np.testing.assert_allclose(actual[row], expected, atol=1e-5)


def with_ngrams(ids, seed=1):
    """The ids of n-grams beside those of some words, none beside padding."""
    rng = np.random.default_rng(seed)
    ngrams = rng.integers(1, 50, (*ids.shape, 2)) * (rng.random((*ids.shape, 2)) < 0.6)
    ngrams *= (ids > 0)[:, :, None]
    return np.concatenate([ids[:, :, None], ngrams], axis=2).astype(np.int32)


def test_an_ngrams_embedding_is_added_where_it_begins():
    """As words do that have the sums as embeddings; id 0 adds nothing, whatever its embedding."""
    model, params, ids = make(pooling="mean_max", segment_length=3)
    ngrams = with_ngrams(ids)
    table = np.asarray(params["embedding"]["embedding"])
    sums = np.sum(table[ngrams] * (ngrams > 0)[..., None], axis=2).reshape(-1, table.shape[1])
    assert np.abs(table[0]).min() > 0
    params["embedding"]["embedding"] = jnp.asarray(np.pad(sums, ((0, 50 - len(sums)), (0, 0))))
    expected = logits(model, params, np.arange(ids.size).reshape(ids.shape))
    params["embedding"]["embedding"] = jnp.asarray(table)
    np.testing.assert_allclose(logits(model, params, ngrams), expected, atol=1e-6)
    assert np.abs(logits(model, params, ids) - expected).min() > 1e-4


@pytest.mark.parametrize("change", [np.copy, with_ngrams], ids=["words", "n-grams"])
def test_word_dropout_makes_words_unknown_and_drops_their_ngrams_in_training_alone(change):
    """And what stands in padding changes no logit."""
    model, params, ids = make(word_dropout=0.999, output_dropout=0.0)
    unknown = logits(model, params, np.ones_like(ids))
    inputs = change(ids)
    plain = logits(model, params, inputs)
    assert np.any(plain != unknown)
    np.testing.assert_array_equal(plain, logits(model, params, with_words_as_padding(inputs)))
    dropped = logits(model, params, inputs, golden.key(0))
    np.testing.assert_allclose(dropped, unknown, atol=1e-6)


def test_a_seed_draws_the_masks_that_it_drew():
    """In training alone. Flax folds a module's name into its key: renamed, old runs differ."""
    rates = {"word_dropout": 0.1, "embedding_dropout": 0.2, "output_dropout": 0.3}
    model, _, ids = make(**rates)
    batch = {"token_ids": ids, "lengths": LENGTHS}
    expected = [("word_dropout", 0.1), ("Dropout_0", 0.2), ("Dropout_1", 0.3)]
    assert golden.dropout_masks(model, batch, golden.key(0)) == expected
    assert golden.dropout_masks(model, batch, None) == []


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
    params = golden.draw(shapes, scale=0.5)

    @functools.partial(jax.jit, static_argnums=0)
    def states_and_gradients(module, params, inputs):
        states, pullback = jax.vjp(lambda p, x: module.apply({"params": p}, x), params, inputs)
        return states, pullback(wanted)

    states, actual = states_and_gradients(ScannedLstm(8, jnp.dtype("float32")), params, inputs)
    plain_states, expected = states_and_gradients(FlaxLstm(), params, inputs)
    np.testing.assert_allclose(states, plain_states, atol=1e-6)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_bfloat16_stays_close_and_logits_are_float32():
    model, params, ids = make()
    half = model.clone(config=dataclasses.replace(model.config, dtype="bfloat16"))
    actual = logits(half, params, ids)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, logits(model, params, ids), atol=0.1)
