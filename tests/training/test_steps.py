"""One optimizer step against a gradient and an update written down; all batches have one shape."""

import dataclasses

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden import plain_optimizer as plain

from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.data.texts import of_numbers
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import cross_entropy, forward
from sentiment_jax.training.optimizers import make_optimizer
from sentiment_jax.training.steps import create_state, make_train_step

SGD = plain(name="sgd")
ADAMW = plain(name="adamw", weight_decay=0.1, clip_norm=0.3, layerwise_decay=0.5)
CONFIG = LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8)
WITH_DROPOUT = LstmClassifier(CONFIG)
MODEL = LstmClassifier(dataclasses.replace(CONFIG, output_dropout=0.0))
ROWS = 64
RATE = np.float32(0.5)


def make_batch(valid=ROWS):
    """Random texts; those from the first `valid` on are padding."""
    rng = np.random.default_rng(0)
    batch = {
        "token_ids": rng.integers(1, 40, (ROWS, 6)),
        "lengths": rng.integers(1, 7, ROWS),
    }
    batch = {name: value.astype(np.int32) for name, value in batch.items()}
    batch["labels"] = of_numbers(rng.integers(0, 2, ROWS), 2)
    return {**batch, "weights": (np.arange(ROWS) < valid).astype(np.float32)}


def take(optimizer, batch, *, steps=1, weights=()):
    """Parameters and metrics after some steps at the rate .5, the losses weighted by class."""
    step = make_train_step(MODEL, optimizer, Classification(weights))
    state = create_state(golden.random(MODEL), optimizer, 0)
    for _ in range(steps):
        state, metrics = step(state, batch, RATE)
    return state.params, {name: float(value) for name, value in metrics.items()}


def assert_close(first, second, rtol=0.0, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


@jax.jit
@jax.grad
def differentiate(params, batch, class_weights):
    """The gradient of the mean loss of the batch's valid rows, weighted by class."""
    logits = forward(MODEL, params, batch["token_ids"], batch["lengths"])
    labels = jnp.argmax(batch["labels"], axis=1)
    losses = cross_entropy(logits, labels) * class_weights[labels]
    return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])


def descend(params, updates):
    """Parameters after a step, in numpy: nothing is compiled for it."""
    return jax.tree.map(lambda p, u: np.asarray(p) - RATE * np.asarray(u), params, updates)


@pytest.mark.parametrize("valid", [ROWS, 45])
@pytest.mark.parametrize("weights", [(), (0.5, 3.0)])
def test_class_weights_and_padding_affect_the_loss_alone(weights, valid):
    batch = make_batch(valid)
    params, metrics = take(SGD, batch, weights=weights)
    start = golden.random(MODEL)
    logits = golden.logits(MODEL, start, batch)
    assert metrics["examples"] == valid
    labels = batch["labels"].argmax(axis=1)
    assert metrics["correct"] == np.sum(logits.argmax(axis=1)[:valid] == labels[:valid])
    gradients = differentiate(start, batch, np.float32(weights or (1.0, 1.0)))
    assert_close(params, descend(start, gradients))


@pytest.mark.parametrize("frozen", ["none", "embeddings"])
def test_steps_are_the_optimizers_and_frozen_embeddings_count_in_no_norm(frozen):
    """Not even weight decay moves them; the rest is trained as if they were not there."""
    batch = make_batch()
    found, metrics = take(dataclasses.replace(ADAMW, frozen=frozen), batch, steps=2)
    reference = make_optimizer(ADAMW, "lstm")
    update = jax.jit(reference.update)
    trained = golden.random(MODEL)
    kept = {"embedding": trained.pop("embedding")} if frozen == "embeddings" else {}
    state = reference.init(trained)
    for _ in range(2):
        gradients = differentiate({**trained, **kept}, batch, np.ones(2, np.float32))
        gradients = {name: gradients[name] for name in trained}
        updates, state = update(gradients, state, trained)
        trained = descend(trained, updates)
    jax.tree.map(np.testing.assert_array_equal, kept, {name: found.pop(name) for name in kept})
    assert_close(found, trained, rtol=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
    assert optax.tree.norm(updates) > 0.01


@pytest.mark.parametrize("name", ["lstm", pytest.param("bert", marks=pytest.mark.slow)])
def test_a_batch_in_parts_is_the_whole_batch_in_less_memory(name):
    model = MODEL
    if name == "bert":
        rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "classifier_dropout"), 0.0)
        model = golden.build("bert", **rates)
    start = golden.random(model)
    programs = []
    for parts in (1, 8):
        step = make_train_step(model, SGD, Classification(), parts=parts)
        programs.append(step.lower(create_state(start, SGD, 0), make_batch(), RATE).compile())
    # Of 45, five parts have six and three have five; of two, two have one and six have none.
    for valid in (45, 2):
        states = [create_state(golden.random(model), SGD, 0) for _ in programs]  # to be donated
        (whole, expected), (split, metrics) = (
            program(state, make_batch(valid), RATE)
            for program, state in zip(programs, states, strict=True)
        )
        assert_close(metrics, expected, rtol=1e-5)
        assert round(float(metrics["examples"]), 4) == valid
        moved = [jax.tree.map(np.subtract, state.params, start) for state in (whole, split)]
        assert_close(*moved, rtol=1e-4)
        assert optax.tree.norm(moved[0]) > 0.01
    memory = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert memory[1] < memory[0] / 2


@pytest.mark.parametrize("parts", [1, 2])
def test_dropout_depends_on_seed_step_and_part_alone_and_the_state_is_donated(parts):
    batch = make_batch()
    step = make_train_step(WITH_DROPOUT, SGD, Classification(), parts=parts)
    state = create_state(golden.random(WITH_DROPOUT), SGD, seed=3)
    losses = set()
    for number in range(3):  # rate 0: only the masks change the loss
        before = state
        state, metrics = step(state, batch, np.float32(0.0))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
        key = jax.random.fold_in(jax.random.key(3), number)
        expected = 0.0
        for part in range(parts):
            rows = {name: array[part::parts] for name, array in batch.items()}
            of_part = jax.random.fold_in(key, part) if parts > 1 else key
            logits = golden.logits(WITH_DROPOUT, golden.random(WITH_DROPOUT), rows, of_part)
            expected += float(cross_entropy(logits, jnp.argmax(rows["labels"], axis=1)).sum())
        assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
        losses.add(round(expected, 3))
    assert len(losses) == 3


def test_golden_step():
    """One SGD step on fixed numbers: any silent change of loss, gradient or update shows."""
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.sin(np.arange(leaf.size)).reshape(leaf.shape), leaf.dtype),
        abstract_params(MODEL),
    )
    step = make_train_step(MODEL, SGD, Classification())
    before = jax.device_get(params)  # the step takes its arguments' memory
    state, metrics = step(create_state(params, SGD, 0), make_batch(), np.float32(0.1))
    metrics = {name: float(value) for name, value in metrics.items()}
    moved = float(optax.tree.norm(jax.tree.map(np.subtract, state.params, before)))
    assert moved == pytest.approx(0.1 * metrics["gradient_norm"], rel=1e-5)
    norm = float(optax.tree.norm(state.params))
    assert metrics.pop("parameter_norm") == pytest.approx(norm, rel=1e-5)
    expected = {"loss": 46.7928, "correct": 29.0, "examples": 64.0, "gradient_norm": 0.268421}
    assert metrics == pytest.approx(expected, rel=1e-4)
