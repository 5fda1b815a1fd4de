"""The supervised contrastive loss equals its definition, and is added to the cross-entropy."""

import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sentiment_jax.config.schema import OptimizerConfig
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.models.outputs import SIGMOIDS, SOFTMAX
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.contrastive import TEMPERATURE, contrastive_loss
from sentiment_jax.training.objectives.objective import classify, classify_with_features
from sentiment_jax.training.steps import create_state, make_train_step

ROWS = 12
VALID = 9


def define(features, labels, weights):
    """Equation 2 of Khosla et al. (2020), text by text, in float64."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    valid = [i for i in range(len(labels)) if weights[i] > 0]
    losses = np.zeros(len(labels))
    for i in valid:
        others = [j for j in valid if j != i]
        same = [j for j in others if np.array_equal(labels[j], labels[i])]
        scores = {j: unit[i] @ unit[j] / TEMPERATURE for j in others}
        total = sum(np.exp(score) for score in scores.values())
        if same:
            losses[i] = -np.mean([np.log(np.exp(scores[j]) / total) for j in same])
    return losses


def test_the_loss_is_its_definition():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 5)).astype(np.float32)
    labels = of_numbers(rng.integers(0, 3, ROWS), 3)
    labels[0] = True  # nobody else's
    weights = (np.arange(ROWS) < VALID).astype(np.float32)
    found = jax.jit(contrastive_loss)(features, labels, weights)
    expected = define(features.astype(np.float64), labels, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found[0] == 0
    assert np.count_nonzero(found) == VALID - 1


@pytest.mark.parametrize("valid", [0, 1, 2])
def test_a_review_with_no_other_has_no_loss_and_no_gradient(valid):
    weights = jnp.asarray(np.arange(3) < valid, jnp.float32)
    labels = jnp.eye(3, dtype=bool)  # each of its own class

    def total(features):
        return contrastive_loss(features, labels, weights).sum()

    for features in (jnp.zeros((3, 4)), jnp.eye(3, 4)):
        loss, gradient = jax.jit(jax.value_and_grad(total))(features)
        assert loss == 0
        np.testing.assert_array_equal(gradient, 0.0)


def make_batch():
    rng = np.random.default_rng(1)
    batch = {
        "token_ids": rng.integers(1, 40, (ROWS, 6)),
        "lengths": rng.integers(1, 7, ROWS),
    }
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    labels = jnp.asarray(of_numbers(rng.integers(0, 2, ROWS), 2))
    return {
        **batch,
        "labels": labels,
        "weights": jnp.asarray(np.arange(ROWS) < VALID, jnp.float32),
    }


@pytest.mark.parametrize(
    ("pooling", "output"),
    [("mean", SIGMOIDS), pytest.param("first", SOFTMAX, marks=pytest.mark.slow)],
)
def test_training_minimizes_both_losses_and_logs_the_cross_entropy(pooling, output):
    model = golden.build_shallow("bert", pooling=pooling)
    params = golden.random(model)
    batch = make_batch()
    optimizer = OptimizerConfig(name="sgd", weight_decay=0.0, clip_norm=0.0)
    step = make_train_step(model, optimizer, Classification(contrastive=3.0, output=output))
    state = create_state(golden.random(model), optimizer, 0)
    key = jax.random.fold_in(state.key, 0)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def both(params):
        plain = Classification(output=output)(model, params, batch, key)
        _, features = classify_with_features(model, params, batch, key)
        losses = contrastive_loss(features, batch["labels"], batch["weights"])
        return plain["loss"] + 3.0 * losses.sum(), plain

    (total, plain), gradient = both(params)
    state, metrics = step(state, batch, np.float32(1.0))
    assert metrics["loss"] == pytest.approx(float(plain["loss"]), rel=1e-5)
    assert metrics["correct"] == plain["correct"]
    assert metrics["examples"] == VALID
    assert metrics["contrastive"] == pytest.approx(float(total - plain["loss"]), rel=1e-4)
    assert metrics["contrastive"] > 0.1
    moved = jax.tree.map(lambda a, b: (np.array(a) - b) * VALID, params, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), moved, gradient)
    assert optax.tree.norm(gradient) > 0.01


def test_the_features_are_what_the_last_layer_reads():
    model = golden.build_shallow("bert", pooling="mean")
    params = golden.random(model)
    batch = make_batch()
    last = params["classifier"]

    @jax.jit
    def both(dropout):
        found = classify_with_features(model, params, batch, dropout)
        return *found, classify(model, params, batch, dropout)

    for dropout in (None, golden.key(0)):
        logits, features, plain = both(dropout)
        np.testing.assert_array_equal(logits, plain)
        found = features @ last["kernel"] + last["bias"]
        np.testing.assert_allclose(found, logits, atol=1e-5)
