import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.training.optimizers import decay_mask, make_optimizer, make_schedule

# Neither schedule, nor decay, nor clipping.
plain = functools.partial(
    OptimizerConfig, schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0
)
PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5, 0.25])},
    "layer_norm": {"scale": jnp.array([1.0]), "bias": jnp.array([0.0])},
    "embedding": {"embedding": jnp.array([[3.0]])},
}
GRADIENTS = [jax.tree.map(lambda p, k=k: 0.1 * k + jnp.cos(p), PARAMS) for k in (1, 2, 3)]


def run(optimizer, factor):
    """Parameters after three steps, the updates multiplied by a factor."""
    params = PARAMS
    state = optimizer.init(PARAMS)
    for gradients in GRADIENTS:
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(lambda p, u: p + factor * u, params, updates)
    return params


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"name": "sgd"}, optax.sgd(0.1)),
        ({"name": "sgd", "momentum": 0.9}, optax.sgd(0.1, momentum=0.9)),
        ({"name": "rmsprop"}, optax.rmsprop(0.1)),
        ({"name": "adam"}, optax.adam(0.1)),
        (
            {"name": "adamw", "weight_decay": 0.2},
            optax.adamw(0.1, weight_decay=0.2, mask=decay_mask),
        ),
        (
            {"name": "adam", "clip_norm": 0.3},
            optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.1)),
        ),
    ],
    ids=["sgd", "momentum", "rmsprop", "adam", "adamw", "clipped"],
)
def test_equals_optax(settings, expected):
    """The train step multiplies by minus the learning rate."""
    ours = run(make_optimizer(plain(**settings), "lstm"), -0.1)
    theirs = run(expected, 1.0)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_weight_decay_shrinks_kernels_alone(name):
    # Decay chained after sgd would grow the weights.
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = make_optimizer(plain(name=name, weight_decay=0.1))
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    kernel = PARAMS["dense"]["kernel"] - 0.1 * updates["dense"]["kernel"]
    assert np.all(np.abs(kernel) < np.abs(PARAMS["dense"]["kernel"]))
    assert not np.any(updates["dense"]["bias"])
    assert not np.any(updates["layer_norm"]["scale"])


def test_decay_mask_is_exact():
    assert decay_mask(PARAMS) == {
        "dense": {"kernel": True, "bias": False},
        "layer_norm": {"scale": False, "bias": False},
        "embedding": {"embedding": True},
    }


def test_layerwise_decay_scales_the_update():
    params = {name: {"kernel": jnp.ones(2)} for name in ("embeddings", "classifier")}
    params["encoder"] = {"layer_0": {"kernel": jnp.ones(2)}}
    optimizer = make_optimizer(plain(name="sgd", layerwise_decay=0.5), "bert")
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    factors = [float(leaf[0]) for leaf in jax.tree.leaves(updates)]
    assert factors == [1.0, 0.25, 0.5]  # classifier, embeddings, encoder


@pytest.mark.parametrize(
    ("schedule", "warmup_fraction", "expected"),
    [
        ("linear", 0.2, [0, 4, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("constant", 0.2, [0, 4, *[8] * 9]),
        ("constant", 0.0, [8] * 11),
    ],
)
def test_schedule_step_by_step(schedule, warmup_fraction, expected):
    config = plain(learning_rate=8.0, schedule=schedule, warmup_fraction=warmup_fraction)
    rate = make_schedule(config, 10)
    assert [rate(step) for step in range(11)] == expected
