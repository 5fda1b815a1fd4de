"""Dropout masks: binomial, independent, and a function of key and shape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.models.layers import Dropout, keep_mask

SHAPE = (64, 128, 96)
SIZE = 64 * 128 * 96


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
def test_masks_are_binomial(rate):
    """So are the means of every row and column; neighbors and masks of two keys are independent."""
    keys = [jax.random.fold_in(jax.random.key(0), seed) for seed in range(2)]
    draw = jax.jit(keep_mask, static_argnums=(1, 2))
    masks = [np.asarray(draw(key, rate, SHAPE)) for key in keys]
    for kept in masks:
        for axes in ((0, 1, 2), (0, 1), (1, 2), (0, 2), (0,), (1,), (2,)):
            means = kept.mean(axis=axes).reshape(-1)
            spread = np.sqrt(rate * (1 - rate) * means.size / SIZE)
            scores = (means - (1 - rate)) / spread
            assert np.abs(scores).max() < 6
            if means.size > 50:
                assert 0.75 < scores.std() < 1.25
    neighbors = (np.roll(masks[0], shift, axis) for shift in (1, 32) for axis in range(3))
    for other in (masks[1], *neighbors):
        same = rate**2 + (1 - rate) ** 2
        assert abs((masks[0] == other).mean() - same) < 6 * 0.5 / np.sqrt(SIZE)


@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_equals_a_plain_loop(generator):
    """The hash by Python's integers."""
    word = 2**32 - 1

    def mix(x):
        x = (x ^ x >> 16) * 0x21F0AAAD & word
        x = (x ^ x >> 15) * 0xD35A2D97 & word
        return x ^ x >> 15

    key = jax.random.fold_in(jax.random.key(5, impl=generator), 1)
    first, second = jax.random.key_data(key)[:2].tolist()
    assert 0 < first != second > 0
    hashes = [mix(mix(index ^ first) + second & word) for index in range(30)]
    assert len(set(hashes)) == 30
    expected = np.array([value >= 0.25 * 2**32 for value in hashes]).reshape(2, 3, 5)
    np.testing.assert_array_equal(keep_mask(key, 0.25, (2, 3, 5)), expected)


def test_the_mean_is_kept_and_inactive_dropout_changes_nothing():
    inputs = jnp.ones(SHAPE)
    dropout = jax.jit(Dropout(0.2, deterministic=False).apply)
    key = {"dropout": jax.random.key(0)}
    outputs = dropout({}, inputs, rngs=key)
    assert set(np.unique(outputs)) == {0, np.float32(1 / 0.8)}
    assert abs(outputs.mean() - 1) < 0.005
    assert dropout({}, jnp.ones(8, jnp.bfloat16), rngs=key).dtype == jnp.bfloat16
    for inactive in (Dropout(0.2, deterministic=True), Dropout(0.0, deterministic=False)):
        assert inactive.apply({}, inputs) is inputs
