import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import plain_optimizer as plain

from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.training.optimizers import decay_mask, make_optimizer, make_schedule

PARAMS = {
    "dense": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([0.5, 0.25])},
    "layer_norm": {"scale": jnp.array([1.0]), "bias": jnp.array([0.0])},
    "embedding": {"embedding": jnp.array([[3.0]])},
}


def run(optimizer, factor):
    """Parameters after three steps, the updates multiplied by a factor."""

    @jax.jit  # of some hundred operations, each would be compiled alone
    def step(params, state, number):
        gradients = jax.tree.map(lambda p: 0.1 * number + jnp.cos(p), PARAMS)
        updates, state = optimizer.update(gradients, state, params)
        return jax.tree.map(lambda p, u: p + factor * u, params, updates), state

    params = PARAMS
    state = optimizer.init(PARAMS)
    for number in (1.0, 2.0, 3.0):
        params, state = step(params, state, number)
    return params


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("sgd", {}, optax.sgd(0.1)),
        ("sgd", {"momentum": 0.9}, optax.sgd(0.1, momentum=0.9)),
        ("rmsprop", {"rms_decay": 0.8, "eps": 0.1}, optax.rmsprop(0.1, decay=0.8, eps=0.1)),
        ("adam", {"b1": 0.8, "b2": 0.7, "eps": 0.1}, optax.adam(0.1, b1=0.8, b2=0.7, eps=0.1)),
        (
            "adamw",
            {"weight_decay": 0.2, "b1": 0.8, "b2": 0.7, "eps": 0.1},
            optax.adamw(0.1, b1=0.8, b2=0.7, eps=0.1, weight_decay=0.2, mask=decay_mask),
        ),
        ("sgd", {"clip_norm": 0.3}, optax.chain(optax.clip_by_global_norm(0.3), optax.sgd(0.1))),
    ],
    ids=["sgd", "momentum", "rmsprop", "adam", "adamw", "clipped"],
)
def test_equals_optax(name, settings, expected):
    """The train step multiplies by minus the learning rate."""
    ours = run(make_optimizer(plain(name=name, **settings), "lstm"), -0.1)
    theirs = run(expected, 1.0)
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("name", ["sgd", "rmsprop", "adam", "adamw"])
def test_weight_decay_shrinks_kernels_and_embeddings_alone(name):
    # Decay chained after sgd would grow the weights.
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = make_optimizer(plain(name=name, weight_decay=0.1))
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    for group, leaves in PARAMS.items():
        for name, leaf in leaves.items():
            smaller = np.abs(leaf - 0.1 * updates[group][name]) < np.abs(leaf)
            assert np.all(smaller == (name in ("kernel", "embedding"))), (group, name)


ENCODER = {"embeddings": 0.0625, "layer_0": 0.125, "layer_1": 0.25, "layer_2": 0.5, "classifier": 1}
LSTM = {"embedding": 0.25, "forward": 0.5, "backward": 0.5, "dense": 1, "classifier": 1}


def test_layerwise_decay_scales_the_update():
    lstm = LstmClassifier(LstmConfig(vocab_size=9, bidirectional=True))
    for model, expected in ((lstm, LSTM), (golden.build("electra_projection"), ENCODER)):
        params = golden.fill(model, 1.0)
        optimizer = make_optimizer(plain(name="sgd", layerwise_decay=0.5), model.config.name)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        updates |= updates.pop("encoder", {})
        assert updates.keys() == expected.keys()
        for name, part in updates.items():
            assert all((leaf == expected[name]).all() for leaf in jax.tree.leaves(part)), name


def test_schedule_step_by_step():
    for schedule, warmup_fraction, expected in (
        ("linear", 0.2, [0, 4, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ("constant", 0.2, [0, 4, *[8] * 9]),
        ("constant", 0.0, [8] * 11),
    ):
        config = plain(learning_rate=8.0, schedule=schedule, warmup_fraction=warmup_fraction)
        rate = make_schedule(config, 10)
        assert [rate(step) for step in range(11)] == expected
