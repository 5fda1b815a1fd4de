"""An LSTM's pre-training: which words are predicted from which, and the softmax over a sample."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sentiment_jax.config import LstmConfig
from sentiment_jax.models.pretrainers import PRIOR, WordVectors
from sentiment_jax.training.objectives import ParagraphVectors, sampled_losses

SIZE, RUNS = 60, 3
LENGTHS = np.array([11, 4, 9, 1], np.int32)
FREQUENCIES = np.zeros(SIZE, np.float32)
FREQUENCIES[2:] = 1 / np.arange(2, SIZE)
FREQUENCIES /= FREQUENCIES.sum()
OBJECTIVE = ParagraphVectors(FREQUENCIES.tobytes(), sample=50)
CONFIG = LstmConfig(vocab_size=SIZE, embedding_size=6)


def make_batch(length=12, rows=4):
    """Words with runs beside some, an unknown one, and a padding row behind them."""
    rng = np.random.default_rng(0)
    ids = np.zeros((rows + 1, length, RUNS), np.int32)
    for row, count in enumerate(LENGTHS[:rows]):
        drawn = rng.integers(2, SIZE, (count, RUNS))
        drawn[:, 1:] *= rng.random((count, RUNS - 1)) < 0.6
        drawn[0, 0] = 1
        ids[row, :count] = drawn
    lengths, numbers = (
        np.append(LENGTHS[:rows], np.int32(1)),
        np.arange(rows + 1, dtype=np.int32) + 5,
    )
    weights = (np.arange(rows + 1) < rows).astype(np.float32)
    batch = {"token_ids": ids, "lengths": lengths, "labels": numbers, "weights": weights}
    return {name: jnp.asarray(array) for name, array in batch.items()}


def test_each_position_is_read_or_predicted_with_its_runs():
    batch = make_batch()
    read, predicted = map(np.asarray, OBJECTIVE.halve(batch, jax.random.key(0)))
    counts, _ = OBJECTIVE.counts_and_shares()
    expected = counts[np.asarray(batch["token_ids"])] * np.asarray(batch["weights"])[:, None, None]
    np.testing.assert_allclose(read + predicted, expected, rtol=1e-6)
    of_positions = [half.any(axis=2) for half in (read, predicted)]
    assert not (of_positions[0] & of_positions[1]).any()
    assert all(half.sum() > 5 for half in of_positions)
    assert not read[4].any() and not predicted[4].any()


def test_halves_depend_on_neither_batch_nor_padding():
    halves = OBJECTIVE.halve(make_batch(), jax.random.key(0))
    again = OBJECTIVE.halve(make_batch(length=20, rows=3), jax.random.key(0))
    for half, other in zip(halves, again, strict=True):
        np.testing.assert_array_equal(other[:3, :12], half[:3])
        assert not np.asarray(other)[:, 12:].any()


def test_frequent_words_are_thinned_out():
    counts, shares = OBJECTIVE.counts_and_shares()
    assert counts[0] == shares[0] == 0
    np.testing.assert_allclose(counts[2:], np.sqrt(1e-4 / FREQUENCIES[2:]), rtol=1e-5)
    np.testing.assert_allclose(shares[2:], counts[2:] * FREQUENCIES[2:] / (counts @ FREQUENCIES))


def test_sampled_softmax_is_unbiased():
    """The sum's estimate is right in the mean; with a large sample, so is each loss."""
    _, shares = OBJECTIVE.counts_and_shares()
    rng = np.random.default_rng(0)
    scores = rng.normal(size=SIZE)
    full = shares @ np.exp(scores)
    drawn = scores[rng.choice(SIZE, (4000, 50), p=shares)]
    # Without its target, which the estimate includes.
    losses = np.asarray(sampled_losses(jnp.full((4000, 1), -50.0), jnp.asarray(drawn), 50))[:, 0]
    sums = np.exp(losses - 50.0) / 50
    assert abs(sums.mean() - full) < 4 * sums.std() / np.sqrt(len(sums))
    many = jnp.asarray(scores[rng.choice(SIZE, 400_000, p=shares)])
    exact = np.log(full) - scores
    found = sampled_losses(jnp.asarray(scores), many, len(many)) - np.log(len(many) + 1)
    np.testing.assert_allclose(found, exact, atol=0.01)
    among_five = np.log(np.exp(scores) + 5 * full) - scores
    found = sampled_losses(jnp.asarray(scores), many, 5)
    np.testing.assert_allclose(found, among_five, atol=0.01)


@pytest.mark.parametrize("runs", [True, False])
def test_scores_equal_a_plain_loop(runs):
    model, batch = WordVectors(CONFIG), make_batch()
    if not runs:
        batch["token_ids"] = batch["token_ids"][:, :, 0]
    params, others = golden.random(model), np.arange(2, 40)
    read, _ = OBJECTIVE.halve(batch, jax.random.key(0))
    inputs = batch["token_ids"], batch["lengths"], read, jnp.asarray(others)
    found = model.apply({"params": params}, *inputs, deterministic=True)
    table = np.asarray(params["embedding"]["embedding"], np.float64)
    common = table[others]
    spread = np.cov(common.T, bias=True) + PRIOR * np.eye(6)
    ids = np.asarray(batch["token_ids"]).reshape(*read.shape)
    for row in range(len(ids)):
        vector, count = np.zeros(6), 0.0
        for place in np.ndindex(read.shape[1:]):
            vector += float(read[row][place]) * table[ids[row][place]]
            count += float(read[row][place])
        text = np.linalg.solve(spread, (vector - count * common.mean(0)) / max(count, 1))
        assert np.any(text) == (count > 0)  # of nothing read, nothing said
        np.testing.assert_allclose(found[0][row], table[ids[row]] @ text, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[1][row], common @ text, rtol=1e-3, atol=1e-4)


def test_an_untrained_model_guesses_by_the_words_shares():
    model, batch = WordVectors(CONFIG), make_batch()
    params = jax.tree.map(jnp.zeros_like, golden.random(model))
    sums = OBJECTIVE(model, params, batch, jax.random.key(3), deterministic=True)
    _, weights = OBJECTIVE.halve(batch, jax.random.split(jax.random.key(3))[0])
    counted = np.asarray(weights) > 0
    _, shares = OBJECTIVE.counts_and_shares()
    expected = (
        -np.log(shares[np.asarray(batch["token_ids"])][counted]) @ np.asarray(weights)[counted]
    )
    assert float(sums["nats"]) == pytest.approx(expected, rel=1e-5)
    assert float(sums["predictions"]) == pytest.approx(float(weights.sum()))
    assert float(sums["loss"]) == pytest.approx(float(weights.sum()) * np.log(6), rel=1e-5)


def test_it_learns_which_words_go_together():
    """Two topics of 29 words each: held-out texts get likelier than by the words' shares."""
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(SIZE) < 2, 0, 1 / (SIZE - 2)).astype(np.float32)
    objective, model = ParagraphVectors(flat.tobytes(), threshold=1.0), WordVectors(CONFIG)

    def draw(rows):
        ids = rng.integers(2, 31, (rows, 12)) + 29 * rng.integers(0, 2, (rows, 1))
        full = {"lengths": np.full(rows, 12, np.int32), "labels": np.arange(rows, dtype=np.int32)}
        batch = {**full, "token_ids": ids.astype(np.int32), "weights": np.ones(rows, np.float32)}
        return {name: jnp.asarray(array) for name, array in batch.items()}

    def loss(params, batch, key, of="loss"):
        sums = objective(model, params, batch, key)
        return sums[of] / sums["examples"]

    @jax.jit
    def step(params, state, batch, key):
        updates, state = adam.update(jax.grad(loss)(params, batch, key), state)
        return optax.apply_updates(params, updates), state

    adam, held_out = optax.adam(0.05), draw(200)
    params = golden.random(model, scale=0.25)
    state = adam.init(params)
    for number in range(80):
        params, state = step(params, state, draw(64), jax.random.key(number))
    nats = float(loss(params, held_out, jax.random.key(0), of="nats"))
    assert np.log(29) < nats < np.log(58) - 0.5
