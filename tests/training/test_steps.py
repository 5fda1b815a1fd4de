import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sentiment_jax.config.schema import LstmConfig, OptimizerConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import cross_entropy, forward
from sentiment_jax.training.optimizers import make_optimizer
from sentiment_jax.training.parameters import abstract_params
from sentiment_jax.training.steps import create_state, make_train_step

# Neither schedule, nor decay, nor clipping.
plain = functools.partial(
    OptimizerConfig, schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0
)
SGD = plain(name="sgd")
CONFIG = LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8)
MODEL = LstmClassifier(CONFIG)
WITHOUT_DROPOUT = LstmClassifier(dataclasses.replace(CONFIG, output_dropout=0.0))


def make_batch(rows=16, length=6, valid=None, seed=0):
    """Random reviews; those from the first `valid` on are padding."""
    rng = np.random.default_rng(seed)
    batch = {
        "token_ids": rng.integers(1, 40, (rows, length)),
        "lengths": rng.integers(1, length + 1, rows),
        "labels": rng.integers(0, 2, rows),
    }
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    return {**batch, "weights": jnp.where(jnp.arange(rows) < (valid or rows), 1.0, 0.0)}


def make_state(optimizer, model=MODEL, seed=0):
    return create_state(golden.random(model), optimizer, seed)


def take(optimizer, batch, *, steps=1, rate=0.5, model=MODEL, seed=0, parts=1, weights=()):
    """Parameters and metrics after some steps, the losses weighted by class."""
    step = make_train_step(model, optimizer, Classification(weights), parts=parts)
    state = make_state(optimizer, model, seed)
    for _ in range(steps):
        state, metrics = step(state, batch, np.float32(rate))
    return state.params, {name: float(value) for name, value in metrics.items()}


def assert_bitwise(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def assert_close(first, second, rtol=0.0, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


@pytest.mark.parametrize(
    ("name", "rate"), [("sgd", 1.0), ("rmsprop", 0.01), ("adam", 0.02), ("adamw", 0.02)]
)
def test_overfits_sixteen_examples(name, rate):
    optimizer = plain(name=name, momentum=0.9)
    _, metrics = take(optimizer, make_batch(), steps=300, rate=rate, model=WITHOUT_DROPOUT)
    assert metrics["correct"] == 16
    assert metrics["loss"] / 16 < 0.05


@jax.jit
@jax.grad
def differentiate(params, batch, class_weights):
    """The gradient of the mean loss of the batch's valid rows, weighted by class."""
    logits = forward(WITHOUT_DROPOUT, params, batch["token_ids"], batch["lengths"])
    losses = cross_entropy(logits, batch["labels"]) * class_weights[batch["labels"]]
    return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])


@pytest.mark.parametrize("valid", [16, 12])
@pytest.mark.parametrize("weights", [(), (0.5, 3.0)])
def test_class_weights_and_padding_affect_the_loss_alone(weights, valid):
    batch = make_batch(valid=valid)
    params, metrics = take(SGD, batch, model=WITHOUT_DROPOUT, weights=weights)
    start = golden.random(WITHOUT_DROPOUT)
    logits = golden.logits(WITHOUT_DROPOUT, start, batch)
    assert metrics["examples"] == valid
    assert metrics["correct"] == np.sum(logits.argmax(axis=1)[:valid] == batch["labels"][:valid])
    gradients = differentiate(start, batch, jnp.array(weights or (1.0, 1.0)))
    assert_close(params, jax.tree.map(lambda old, slope: old - 0.5 * slope, start, gradients))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_embeddings_stay_and_count_in_no_norm(name):
    """Not even weight decay moves them; the rest is trained as if they were not there."""
    optimizer = plain(
        name=name, weight_decay=0.1, clip_norm=0.3, layerwise_decay=0.5, frozen="embeddings"
    )
    batch = make_batch()
    found, metrics = take(optimizer, batch, model=WITHOUT_DROPOUT)
    params = golden.random(WITHOUT_DROPOUT)
    gradients = differentiate(params, batch, jnp.ones(2))
    assert_bitwise(found.pop("embedding"), params.pop("embedding"))
    assert optax.tree.norm(gradients.pop("embedding")) > 0.01
    assert metrics["gradient_norm"] == pytest.approx(float(optax.tree.norm(gradients)), rel=1e-5)
    reference = make_optimizer(dataclasses.replace(optimizer, frozen="none"), "lstm")
    updates, _ = reference.update(gradients, reference.init(params), params)
    expected = jax.tree.map(lambda old, update: old - 0.5 * update, params, updates)
    assert_close(found, expected, rtol=1e-5)
    assert optax.tree.norm(updates) > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "bert"])
@pytest.mark.parametrize(
    ("rows", "valid", "parts"),
    [(64, 45, 8), (8, 2, 4)],  # five parts have six reviews, three have five; two have none
)
def test_a_batch_in_parts_is_the_whole_batch_in_less_memory(name, rows, valid, parts):
    model = WITHOUT_DROPOUT
    if name == "bert":
        rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "classifier_dropout"), 0.0)
        model = golden.build("bert", **rates)
    batch = make_batch(rows, length=12, valid=valid)
    whole, expected = take(SGD, batch, model=model)
    split, metrics = take(SGD, batch, model=model, parts=parts)
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert round(metrics["examples"], 4) == valid
    start = make_state(SGD, model)
    moved = [jax.tree.map(jnp.subtract, end, start.params) for end in (whole, split)]
    assert_close(*moved, rtol=1e-4)
    assert optax.tree.norm(moved[0]) > 0.01
    if rows == 64:
        memory = []
        for number in (1, parts):
            step = make_train_step(model, SGD, Classification(), parts=number)
            compiled = step.lower(start, batch, np.float32(0.5)).compile()  # not again
            memory.append(compiled.memory_analysis().temp_size_in_bytes)
        assert memory[1] < memory[0] / 2


def test_the_dropout_of_a_part_depends_on_seed_step_and_part_alone():
    batch = make_batch()
    step_key = jax.random.fold_in(jax.random.key(3), 0)

    @jax.jit
    def loss(rows, part):
        key = jax.random.fold_in(step_key, part)
        logits = forward(
            MODEL, golden.random(MODEL), rows["token_ids"], rows["lengths"], dropout=key
        )
        return cross_entropy(logits, rows["labels"]).sum()

    even, odd = (jax.tree.map(lambda array, n=n: array[n::2], batch) for n in (0, 1))
    _, metrics = take(SGD, batch, rate=0.0, seed=3, parts=2)
    assert metrics["loss"] == pytest.approx(float(loss(even, 0) + loss(odd, 1)), rel=1e-6)
    assert metrics["loss"] != pytest.approx(float(loss(even, 0) + loss(odd, 0)), rel=1e-3)


def test_dropout_differs_from_step_to_step_and_the_state_is_donated():
    step = make_train_step(MODEL, SGD, Classification())
    state = make_state(SGD)
    losses = set()
    for _ in range(3):  # rate 0: only the mask can change the loss
        before = state
        state, metrics = step(state, make_batch(), np.float32(0.0))
        losses.add(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    assert len(losses) == 3


def test_golden_step():
    """One SGD step on fixed numbers: any silent change of loss, gradient or update shows."""
    model = LstmClassifier(LstmConfig(vocab_size=40, embedding_size=8, output_dropout=0.0))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.sin(np.arange(leaf.size)).reshape(leaf.shape), leaf.dtype),
        abstract_params(model),
    )
    step = make_train_step(model, SGD, Classification())
    _, metrics = step(create_state(params, SGD, 0), make_batch(), np.float32(0.1))
    metrics = {name: float(value) for name, value in metrics.items()}
    assert metrics.pop("update_norm") == pytest.approx(0.1 * metrics["gradient_norm"], rel=1e-5)
    expected = {"loss": 220.0845, "correct": 5.0, "examples": 16.0, "gradient_norm": 19.5234}
    assert metrics == pytest.approx(expected, rel=1e-4)
