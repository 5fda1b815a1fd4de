"""ModernBERT: local attention in blocks, long texts."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.config.schema import ModernBertConfig
from sentiment_jax.models import modernbert
from sentiment_jax.models.encoder import attend


def draw(length, rows=3, heads=2, size=4):
    """Query, key and value of a few rows."""
    shape = (3, rows, length, heads, size)
    return jnp.asarray(np.random.default_rng(length).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("length", [1, 16, 17, 40])
def test_attention_in_blocks_is_attention_under_a_mask(length):
    """A token, two windows as one block, three blocks, the last one short, five whole ones."""
    config = ModernBertConfig(local_attention=8)
    lengths = jnp.asarray([length, 1, max(length - 9, 1)])
    positions = jnp.arange(length)
    near = jnp.abs(positions[:, None] - positions) <= 4
    mask = near & (positions < lengths[:, None])[:, None]
    valid = (positions < lengths[:, None])[:, :, None, None]

    @jax.jit
    def differentiate(*operands):
        results = []
        for attention in (
            lambda *operands: attend(config, *operands, mask, True),
            lambda *operands: modernbert.attend_locally(config, *operands, lengths, True),
        ):
            outputs, pullback = jax.vjp(attention, *operands)
            results.append((outputs * valid, *pullback(jnp.cos(outputs) * valid)))
        return results

    for plain, ours in zip(*differentiate(*draw(length)), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=0, atol=2e-6)


def test_local_attention_costs_length_times_window():
    def flops(length):
        operands = (*draw(length, rows=1, heads=1, size=64), jnp.array([length]))
        attention = jax.jit(modernbert.attend_locally, static_argnums=(0, 5))
        lowered = attention.lower(ModernBertConfig(), *operands, True)
        return lowered.compile().cost_analysis()["flops"]

    assert 3.5 < flops(4096) / flops(1024) < 4.5


def test_the_window_of_long_texts_is_pytorchs():
    model, params = golden.load("modernbert")
    config = dataclasses.replace(model.config, local_attention=128, max_position_embeddings=1024)
    recorded = golden.read("modernbert")
    batch = {"token_ids": recorded["long_token_ids"], "lengths": jnp.asarray([1024, 700])}
    logits = golden.logits(model.clone(config=config), params, batch)
    np.testing.assert_allclose(logits, recorded["long_logits"], rtol=0, atol=1e-5)


def test_the_head_reads_the_first_token_or_the_mean_of_the_valid_ones():
    states = jnp.arange(12.0).reshape(2, 3, 2)
    for pooling, expected in (("cls", [[0, 1], [6, 7]]), ("mean", [[1, 2], [6, 7]])):
        model = modernbert.ModernBertClassifier(ModernBertConfig(classifier_pooling=pooling))
        np.testing.assert_array_equal(model.pool(states, jnp.array([2, 1])), expected)
