import dataclasses
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


def run(config, learning_rate=0.1):
    """Parameters after three steps, the learning rate applied as the train step does."""
    optimizer = make_optimizer(config, "lstm")
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradients in GRADIENTS:
        updates, state = optimizer.update(gradients, state, params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
    return params


def reference(optimizer):
    params, state = PARAMS, optimizer.init(PARAMS)
    for gradients in GRADIENTS:
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_equal(actual, expected):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), actual, expected)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (plain(name="sgd"), optax.sgd(0.1)),
        (plain(name="sgd", momentum=0.9), optax.sgd(0.1, momentum=0.9)),
        (plain(name="rmsprop"), optax.rmsprop(0.1)),
        (plain(name="adam"), optax.adam(0.1)),
        (
            plain(name="adamw", weight_decay=0.2),
            optax.adamw(0.1, weight_decay=0.2, mask=decay_mask),
        ),
        (
            plain(name="adam", clip_norm=0.3),
            optax.chain(optax.clip_by_global_norm(0.3), optax.adam(0.1)),
        ),
    ],
    ids=["sgd", "momentum", "rmsprop", "adam", "adamw", "clipped"],
)
def test_equals_optax(config, expected):
    assert_equal(run(config), reference(expected))


def test_weight_decay_shrinks_under_every_optimizer():
    # Decay chained after sgd would grow the weights.
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    for name in ("sgd", "rmsprop", "adam", "adamw"):
        optimizer = make_optimizer(plain(name=name, weight_decay=0.1))
        updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
        kernel = PARAMS["dense"]["kernel"] - 0.1 * updates["dense"]["kernel"]
        assert np.all(np.abs(kernel) < np.abs(PARAMS["dense"]["kernel"])), name
        assert not np.any(updates["dense"]["bias"]), name
        assert not np.any(updates["layer_norm"]["scale"]), name


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


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_embeddings_stay_and_count_in_no_norm(name):
    """Not even their decay moves them; the rest is trained as if they were not there."""
    config = plain(
        name=name, weight_decay=0.1, clip_norm=0.3, frozen="embeddings", layerwise_decay=0.5
    )
    found = run(config)
    assert_equal(found["embedding"], PARAMS["embedding"])
    optimizer = make_optimizer(dataclasses.replace(config, frozen="none"), "lstm")
    rest = {key: value for key, value in PARAMS.items() if key != "embedding"}
    state = optimizer.init(rest)
    for gradients in GRADIENTS:
        gradients = {key: value for key, value in gradients.items() if key in rest}
        updates, state = optimizer.update(gradients, state, rest)
        rest = jax.tree.map(lambda p, u: p - 0.1 * u, rest, updates)
    assert_equal({key: found[key] for key in rest}, rest)


def test_schedule_step_by_step():
    linear = plain(learning_rate=8.0, schedule="linear", warmup_fraction=0.2)
    schedule = make_schedule(linear, 10)
    values = [schedule(step) for step in range(11)]
    assert values == [0, 4, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    constant = plain(learning_rate=8.0, schedule="constant", warmup_fraction=0.2)
    assert [make_schedule(constant, 10)(step) for step in range(4)] == [0, 4, 8, 8]
    flat = make_schedule(plain(learning_rate=0.3), 10)
    assert {flat(step) for step in range(10)} == {0.3}


def test_schedule_equals_optax():
    config = plain(learning_rate=3e-5, schedule="linear", warmup_fraction=0.1)
    ours = make_schedule(config, 1000)
    theirs = optax.join_schedules(
        [optax.linear_schedule(0, 3e-5, 100), optax.linear_schedule(3e-5, 0, 900)], [100]
    )
    for step in (0, 1, 50, 99, 100, 101, 555, 999):
        np.testing.assert_allclose(ours(step), theirs(step), rtol=1e-5, atol=1e-12)


def test_unknown_names_are_refused():
    """A config's are refused by `validate`, which lists the known ones."""
    with pytest.raises(KeyError, match="adagrad"):
        make_optimizer(plain(name="adagrad"))
    with pytest.raises(KeyError, match="cosine"):
        make_schedule(plain(schedule="cosine"), 10)(5)
