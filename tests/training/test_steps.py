import dataclasses
import functools

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sentiment_jax.config.schema import LossConfig, LstmConfig, OptimizerConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import build_model
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import cross_entropy, forward
from sentiment_jax.training.steps import create_state, make_train_step

# Neither schedule, nor decay, nor clipping.
plain = functools.partial(
    OptimizerConfig, schedule="constant", warmup_fraction=0.0, weight_decay=0.0, clip_norm=0.0
)


MODEL = LstmClassifier(LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8))


def make_batch(rows=16, length=6, seed=0):
    rng = np.random.default_rng(seed)
    batch = {
        "token_ids": rng.integers(1, 40, (rows, length)),
        "lengths": rng.integers(1, length + 1, rows),
        "labels": rng.integers(0, 2, rows),
    }
    batch = {name: jnp.asarray(value, jnp.int32) for name, value in batch.items()}
    return {**batch, "weights": jnp.ones(rows)}


def make_state(optimizer, model=MODEL, seed=0):
    return create_state(golden.random(model), optimizer, seed)


def take(optimizer, batch, steps, rate, model=MODEL, seed=0, parts=1):
    step = make_train_step(model, optimizer, parts=parts)
    state = make_state(optimizer, model, seed)
    for _ in range(steps):
        state, metrics = step(state, batch, np.float32(rate))
    return state, {name: float(value) for name, value in metrics.items()}


def assert_bitwise(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize(
    ("name", "rate"), [("sgd", 1.0), ("rmsprop", 0.01), ("adam", 0.02), ("adamw", 0.02)]
)
def test_overfits_sixteen_examples(name, rate):
    model = LstmClassifier(
        LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8, output_dropout=0.0)
    )
    optimizer = plain(name=name, momentum=0.9)
    _, metrics = take(optimizer, make_batch(), 300, rate, model)
    assert metrics["correct"] == 16
    assert metrics["loss"] / 16 < 0.05


def test_one_trace_per_shape():
    traces = []

    class Counted(LstmClassifier):
        def __call__(self, token_ids, lengths, *, deterministic=True):
            traces.append(token_ids.shape)
            return super().__call__(token_ids, lengths, deterministic=deterministic)

    model = Counted(MODEL.config)
    optimizer = plain()
    step, state = make_train_step(model, optimizer), make_state(optimizer, MODEL)
    for rate in (0.1, 0.2):
        for length in (6, 9, 6, 9):
            state, _ = step(state, make_batch(length=length), np.float32(rate))
    assert sorted(traces) == [(16, 6), (16, 9)]


def test_runs_of_other_rates_and_seeds_share_the_program():
    base = plain(name="adam", learning_rate=1e-3)
    other = plain(name="adam", learning_rate=5e-5, schedule="linear", warmup_fraction=0.1)
    assert make_train_step(MODEL, base) is make_train_step(MODEL, other)
    assert make_train_step(MODEL, base) is not make_train_step(MODEL, plain(name="sgd"))


def test_a_frozen_table_has_no_gradient_and_the_rest_learns_as_beside_a_trained_one():
    """A step from one state: the other leaves move as they would; norms leave the table out."""
    optimizer, batch = plain(name="sgd"), make_batch()
    frozen = dataclasses.replace(optimizer, frozen="embeddings")
    (state, metrics), (trained, all_metrics) = (
        take(one, batch, 1, 0.5) for one in (frozen, optimizer)
    )
    start = make_state(optimizer)
    moved = trained.params.pop("embedding")
    table = state.params.pop("embedding")
    assert_bitwise(table, start.params["embedding"])
    assert np.any(np.asarray(moved["embedding"]) != np.asarray(table["embedding"]))
    assert_bitwise(state.params, trained.params)
    assert 0 < metrics["gradient_norm"] < all_metrics["gradient_norm"]


def test_padded_rows_change_nothing():
    batch = make_batch(rows=12)
    padded = make_batch(rows=16, seed=9)
    padded = {name: padded[name].at[:12].set(value) for name, value in batch.items()}
    padded["weights"] = padded["weights"].at[12:].set(0)
    model = LstmClassifier(
        LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8, output_dropout=0.0)
    )
    state, metrics = take(plain(name="sgd"), batch, 1, 0.5, model)
    padded_state, padded_metrics = take(plain(name="sgd"), padded, 1, 0.5, model)
    assert padded_metrics["examples"] == 12
    assert padded_metrics["correct"] == metrics["correct"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, padded_state.params
    )


ENCODER = {"hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1}
ENCODER |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 16}
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
MODELS = {
    "lstm": {"embedding_size": 8, "hidden_size": 8, "dense_size": 8, "output_dropout": 0.0},
    "bert": ENCODER | NO_DROPOUT,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_batch_in_parts_is_the_whole_batch_in_less_memory(name):
    """Also with padded rows: of eight parts, five have six reviews and three have five."""
    model = build_model({"name": name, **MODELS[name]}, vocab_size=40)
    batch, optimizer = make_batch(rows=64, length=12), plain(name="sgd")
    batch["weights"] = batch["weights"].at[45:].set(0)
    whole, expected = take(optimizer, batch, 1, 0.5, model)
    split, metrics = take(optimizer, batch, 1, 0.5, model, parts=8)
    assert metrics.keys() == expected.keys() and metrics["examples"] == 45
    assert metrics == pytest.approx(expected, rel=1e-5)
    start = make_state(optimizer, model)
    moved = [jax.tree.map(jnp.subtract, end.params, start.params) for end in (whole, split)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *moved)
    assert optax.tree.norm(moved[0]) > 0.01
    memory = [
        make_train_step(model, optimizer, parts=parts)
        .lower(start, batch, np.float32(0.5))
        .compile()  # not again
        .memory_analysis()
        .temp_size_in_bytes
        for parts in (1, 8)
    ]
    assert memory[1] < memory[0] / 2


def test_parts_without_a_row_add_nothing_to_a_loss_of_all_rows():
    """Of four parts, two have no review; where all have labels, parts are the whole batch."""
    model = LstmClassifier(dataclasses.replace(MODEL.config, output_dropout=0.0))
    batch, optimizer = make_batch(rows=8), plain(name="sgd")
    batch["weights"] = batch["weights"].at[2:].set(0)
    objective, found = Classification(regularizers=LossConfig(entropy=0.5)), []
    for parts in (1, 4):
        step = make_train_step(model, optimizer, parts=parts, objective=objective)
        state, metrics = step(make_state(optimizer, model), batch, np.float32(0.5))
        found.append((state.params, metrics["loss"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


def test_the_dropout_of_a_part_depends_on_seed_step_and_part_alone():
    batch, step_key = make_batch(), jax.random.fold_in(jax.random.key(3), 0)

    @jax.jit
    def loss(rows, part):
        key, inputs = jax.random.fold_in(step_key, part), (rows["token_ids"], rows["lengths"])
        logits = forward(MODEL, golden.random(MODEL), *inputs, dropout=key)
        return cross_entropy(logits, rows["labels"]).sum()

    even, odd = (jax.tree.map(lambda array, n=n: array[n::2], batch) for n in (0, 1))
    _, metrics = take(plain(name="sgd"), batch, 1, 0.0, seed=3, parts=2)
    assert metrics["loss"] == pytest.approx(float(loss(even, 0) + loss(odd, 1)), rel=1e-6)
    assert metrics["loss"] != pytest.approx(float(loss(even, 0) + loss(odd, 0)), rel=1e-3)


def test_class_weights_multiply_the_losses_of_their_class_and_nothing_else():
    """Against the two classes' own steps: gradients add up, counts and examples stay plain."""
    model = LstmClassifier(
        LstmConfig(vocab_size=40, embedding_size=8, hidden_size=8, dense_size=8, output_dropout=0.0)
    )
    batch, sgd = make_batch(), plain(name="sgd")
    step = make_train_step(model, sgd, objective=Classification((0.5, 3.0)))
    state, metrics = step(make_state(sgd, model), batch, np.float32(0.5))
    start, own, losses = make_state(sgd, model).params, [], []
    for label, weight in ((0, 0.5), (1, 3.0)):
        alone = {**batch, "weights": jnp.where(batch["labels"] == label, 1.0, 0.0)}
        moved, of_class = take(sgd, alone, 1, 0.5, model)
        share = weight * of_class["examples"] / 16
        own.append(jax.tree.map(lambda new, old, s=share: s * (new - old), moved.params, start))
        losses.append(weight * of_class["loss"])
    assert float(metrics["loss"]) == pytest.approx(sum(losses), rel=1e-6)
    jax.tree.map(
        lambda new, old, *moves: np.testing.assert_allclose(new, old + sum(moves), atol=1e-6),
        *(state.params, start, *own),
    )
    _, without = take(sgd, batch, 1, 0.5, model)
    assert (metrics["examples"], metrics["correct"]) == (16, without["correct"])


def test_same_seed_is_bitwise_equal_and_other_seeds_are_not():
    optimizer = plain(name="adam")
    first, _ = take(optimizer, make_batch(), 2, 0.01)
    again, _ = take(optimizer, make_batch(), 2, 0.01)
    other, _ = take(optimizer, make_batch(), 2, 0.01, seed=1)
    assert_bitwise(first.params, again.params)
    assert not np.array_equal(first.params["dense"]["kernel"], other.params["dense"]["kernel"])


def test_dropout_differs_from_step_to_step():
    optimizer = plain(name="sgd")
    step, state = make_train_step(MODEL, optimizer), make_state(optimizer)
    losses = []
    for _ in range(3):  # rate 0: only the mask can change the loss
        state, metrics = step(state, make_batch(), np.float32(0.0))
        losses.append(float(metrics["loss"]))
    assert len(set(losses)) == 3


def test_the_state_is_donated():
    optimizer = plain(name="adam")
    state = make_state(optimizer)
    make_train_step(MODEL, optimizer)(state, make_batch(), np.float32(0.1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_golden_step():
    """One sgd step on fixed numbers: any silent change of loss, gradient or update shows."""
    model = LstmClassifier(LstmConfig(vocab_size=40, embedding_size=8, output_dropout=0.0))
    batch = make_batch()
    params = jax.tree.map(
        lambda leaf: jnp.asarray(np.sin(np.arange(leaf.size)).reshape(leaf.shape), leaf.dtype),
        abstract_params(model),
    )
    state = create_state(params, plain(name="sgd"), 0)
    step = make_train_step(model, plain(name="sgd"))
    metrics = {name: float(value) for name, value in step(state, batch, np.float32(0.1))[1].items()}
    assert metrics["update_norm"] == pytest.approx(0.1 * metrics["gradient_norm"], rel=1e-5)
    expected = {"loss": 220.0845, "correct": 5.0, "examples": 16.0, "gradient_norm": 19.5234}
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
