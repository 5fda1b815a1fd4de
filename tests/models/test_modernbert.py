"""ModernBERT: local attention in blocks, rotary embeddings, long texts."""

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


@pytest.mark.parametrize("length", [1, 7, 16, 17, 24, 40, 41])
def test_attention_in_blocks_is_attention_under_a_mask(length):
    """Texts of one, two and more windows, ends within a block, rows shorter than the batch."""
    config = ModernBertConfig(local_attention=8)
    query, key, value = draw(length)
    lengths = jnp.asarray([length, 1, max(length - 9, 1)])
    positions = jnp.arange(length)
    near = jnp.abs(positions[:, None] - positions) <= 4
    mask = near & (positions < lengths[:, None])[:, None]

    def compute(attention):
        outputs, pullback = jax.vjp(attention, query, key, value)
        valid = (positions < lengths[:, None])[:, :, None, None]
        return outputs * valid, *pullback(jnp.cos(outputs) * valid)

    plain = compute(lambda q, k, v: attend(config, q, k, v, mask, True))
    ours = compute(lambda q, k, v: modernbert.attend_locally(config, q, k, v, lengths, True))
    for one, other in zip(ours, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-6)


def test_local_attention_costs_length_times_window():
    config = ModernBertConfig()

    def flops(length):
        query, key, value = draw(length, rows=1, heads=1, size=64)
        attention = jax.jit(
            lambda q, k, v: modernbert.attend_locally(config, q, k, v, jnp.asarray([length]), True)
        )
        return attention.lower(query, key, value).compile().cost_analysis()["flops"]

    assert 3.5 < flops(4096) / flops(1024) < 4.5


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
def test_rotary_embeddings_rotate_pairs_by_their_distance(theta):
    """As complex numbers: a product of two depends on their distance alone."""
    query, key, _ = draw(50, size=16)
    ours = np.asarray(modernbert.rotate(query, theta))
    angles = np.arange(50)[:, None, None] * theta ** (-np.arange(8) / 8)
    expected = (query[..., :8] + 1j * query[..., 8:]) * np.exp(1j * angles)
    np.testing.assert_allclose(ours[..., :8] + 1j * ours[..., 8:], expected, rtol=0, atol=1e-5)


def test_the_window_of_long_texts_is_pytorchs():
    model, params = golden.load("modernbert")
    config = dataclasses.replace(model.config, local_attention=128, max_position_embeddings=1024)
    recorded = golden.read("modernbert")
    batch = {"token_ids": recorded["long_token_ids"], "lengths": jnp.asarray([1024, 700])}
    logits = golden.logits(model.clone(config=config), params, batch)
    np.testing.assert_allclose(logits, recorded["long_logits"], rtol=0, atol=1e-5)
    narrower = dataclasses.replace(config, local_attention=126)
    others = golden.logits(model.clone(config=narrower), params, batch)
    assert np.abs(others - logits).max() > 1e-4  # a token at the window's edge counts
