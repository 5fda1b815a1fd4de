"""An LSTM's pre-training: vectors of texts and of their words, by negative sampling."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.config import LstmConfig
from sentiment_jax.models.pretrainers import WordVectors
from sentiment_jax.training.objectives import NegativeSampling, sampled_losses

SIZE, RUNS, WIDTH = 60, 3, 6
LENGTHS = np.array([11, 4, 9, 1], np.int32)
FREQUENCIES = np.zeros(SIZE, np.float32)
FREQUENCIES[2:] = 1 / np.arange(2, SIZE)
FREQUENCIES /= FREQUENCIES.sum()
OBJECTIVE = NegativeSampling(FREQUENCIES.tobytes(), threshold=0.02, at_once=4, sample=7, most=5)
MODEL = WordVectors(LstmConfig(vocab_size=SIZE, embedding_size=WIDTH))
RATE = 0.3
STEPS = OBJECTIVE.steps(5)


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


def test_frequent_words_are_thinned_out():
    kept, noise = OBJECTIVE.kept_and_noise()
    assert kept[0] == kept[1] == noise[0] == noise[1] == 0
    expected = np.minimum(np.sqrt(0.02 / FREQUENCIES[2:]), 1)
    np.testing.assert_allclose(kept[2:], expected, rtol=1e-5)
    left = (expected * FREQUENCIES[2:]) ** 0.75
    np.testing.assert_allclose(noise[2:], left / left.sum(), rtol=1e-5)
    batch = make_batch()
    shares = np.mean(
        [np.asarray(OBJECTIVE.thin(batch, jax.random.key(seed))) for seed in range(400)], axis=0
    )
    ids = np.asarray(batch["token_ids"]).reshape(shares.shape)
    expected = kept[ids] * np.asarray(batch["weights"])[:, None]
    np.testing.assert_allclose(shares, expected, atol=4.5 * 0.5 / np.sqrt(400))
    assert not shares[expected == 0].any()


def test_words_are_drawn_by_their_noise():
    drawn = np.asarray(OBJECTIVE.draw(jax.random.key(0), 200_000))
    shares = np.bincount(drawn, minlength=SIZE) / len(drawn)
    np.testing.assert_allclose(shares, OBJECTIVE.kept_and_noise()[1], atol=0.003)


def test_words_that_are_told_often_at_once_move_less():
    kept, noise = OBJECTIVE.kept_and_noise()
    left = kept * FREQUENCIES
    told = 5 * 4 * (left / left.sum() + 5 * noise)
    assert 0 < (told > 5).sum() < SIZE
    np.testing.assert_allclose(STEPS * told, np.minimum(told, 5), rtol=1e-6)


def plain_read(table, texts, words, others_of, rate):
    """A loop over looks, texts, words and drawn ones; everything moves after each look."""
    each = [-(-len(row) // OBJECTIVE.at_once) for row in words]
    loss = 0.0

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for number in range(max(each)):
        of_table, of_texts = np.zeros_like(table), np.zeros_like(texts)
        for row, text in enumerate(texts):
            some = words[row][number :: each[row]] if number < each[row] else []
            for word in some:
                loss -= np.log(sigmoid(text @ table[word]))
                share = sigmoid(text @ table[word]) - 1
                of_texts[row] += share * table[word]
                of_table[word] += share * text
                for other in others_of(number):
                    weight = OBJECTIVE.negatives / OBJECTIVE.sample
                    loss -= weight * np.log(sigmoid(-text @ table[other]))
                    share = weight * sigmoid(text @ table[other])
                    of_texts[row] += share * table[other]
                    of_table[other] += share * text
        table, texts = (
            table - rate * STEPS[:, None] * of_table,
            texts - OBJECTIVE.text_rate * of_texts,
        )
    return table, texts, loss


def test_a_step_equals_a_plain_loop():
    batch, key = make_batch(), jax.random.key(3)
    params = golden.random(MODEL)
    found, sums = jax.jit(OBJECTIVE.descend)(params, batch, key, jnp.float32(RATE))
    thinning, finding, learning = jax.random.split(key, 3)
    left = np.asarray(OBJECTIVE.thin(batch, thinning))
    ids = np.asarray(batch["token_ids"]).reshape(left.shape)
    words = [row[kept] for row, kept in zip(ids, left, strict=True)]
    assert not len(words[4]) and max(map(len, words)) > 2 * OBJECTIVE.at_once

    def drawn(key):
        return lambda number: np.asarray(OBJECTIVE.draw(jax.random.fold_in(key, number), 7))

    table = np.asarray(params["embedding"]["embedding"], np.float64)
    nothing = jnp.zeros(left.shape, bool)
    texts = np.asarray(OBJECTIVE.find_texts(jnp.asarray(table), batch, nothing, key), np.float64)
    assert 0 < np.abs(texts).max() <= 0.5 / WIDTH
    _, texts, _ = plain_read(table, texts, words, drawn(finding), 0.0)
    kept = OBJECTIVE.find_texts(params["embedding"]["embedding"], batch, jnp.asarray(left), finding)
    np.testing.assert_allclose(kept, texts, rtol=1e-4, atol=1e-6)
    moved, _, loss = plain_read(table, texts, words, drawn(learning), RATE)
    np.testing.assert_allclose(found["embedding"]["embedding"], moved, rtol=1e-4, atol=1e-6)
    assert np.abs(moved - table).max() > 0.01
    assert float(sums["loss"]) == pytest.approx(loss, rel=1e-4)
    assert float(sums["examples"]) == sum(map(len, words))


def test_a_texts_vector_depends_on_neither_batch_nor_padding():
    table = golden.random(MODEL)["embedding"]["embedding"]
    batches = make_batch(), make_batch(length=20, rows=3)
    found = []
    for batch in batches:
        left = OBJECTIVE.thin(batch, jax.random.key(0))
        found.append(np.asarray(OBJECTIVE.find_texts(table, batch, left, jax.random.key(1))))
    np.testing.assert_allclose(found[1][:3], found[0][:3], rtol=1e-5, atol=1e-7)


def test_held_out_words_are_told_by_the_others_vector():
    """What is told is no part of what the vector comes from: other words there change no vector."""
    params, batch, key = golden.random(MODEL), make_batch(), jax.random.key(2)
    sums = OBJECTIVE(MODEL, params, batch, key, deterministic=True)
    thinning, halving, finding, _ = jax.random.split(key, 4)
    left = np.asarray(OBJECTIVE.thin(batch, thinning))
    told = np.asarray(OBJECTIVE.told(batch, halving))
    assert (left & told).sum() > 5 < (left & ~told).sum()
    assert float(sums["examples"]) == (left & told).sum()
    by_position = told.reshape(5, -1, RUNS)
    np.testing.assert_array_equal(by_position, by_position[:, :, :1].repeat(RUNS, axis=2))
    read = jnp.asarray(left & ~told)
    texts = OBJECTIVE.find_texts(params["embedding"]["embedding"], batch, read, finding)
    ids = np.asarray(batch["token_ids"]).reshape(left.shape)
    table, correct = np.asarray(params["embedding"]["embedding"]), 0
    for row, column in zip(*np.nonzero(left & told), strict=True):
        correct += table[ids[row, column]] @ np.asarray(texts[row]) > 0
    assert float(sums["correct"]) == correct


def test_sampled_softmax_is_unbiased():
    """The sum's estimate is right in the mean; with a large sample, so is each loss."""
    noise = OBJECTIVE.kept_and_noise()[1]
    rng = np.random.default_rng(0)
    scores = rng.normal(size=SIZE)
    full = noise @ np.exp(scores)
    drawn = scores[rng.choice(SIZE, (4000, 50), p=noise)]
    # Without its target, which the estimate includes.
    losses = np.asarray(sampled_losses(jnp.full((4000, 1), -50.0), jnp.asarray(drawn)))[:, 0]
    sums = np.exp(losses + np.log(51) - 50.0) / 50
    assert abs(sums.mean() - full) < 4 * sums.std() / np.sqrt(len(sums))
    many = jnp.asarray(scores[rng.choice(SIZE, 400_000, p=noise)])
    np.testing.assert_allclose(
        sampled_losses(jnp.asarray(scores), many), np.log(full) - scores, atol=0.01
    )


def test_an_untrained_model_guesses():
    params = jax.tree.map(jnp.zeros_like, golden.random(MODEL))
    batch, key = make_batch(), jax.random.key(3)
    sums = OBJECTIVE(MODEL, params, batch, key, deterministic=True)
    told = int(sums["examples"])
    assert float(sums["loss"]) == pytest.approx(told * 6 * np.log(2), rel=1e-5)
    thinning, halving, *_ = jax.random.split(key, 4)
    counted = np.asarray(OBJECTIVE.thin(batch, thinning) & OBJECTIVE.told(batch, halving))
    ids = np.asarray(batch["token_ids"]).reshape(counted.shape)[counted]
    noise = OBJECTIVE.kept_and_noise()[1]
    assert float(sums["nats"]) == pytest.approx(-np.log(noise[ids]).sum(), rel=1e-5)
    assert float(sums["predictions"]) == told == counted.sum()


def test_it_learns_which_words_go_together():
    """Two topics of 29 words each: held-out texts get likelier than by the words' shares."""
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(SIZE) < 2, 0, 1 / (SIZE - 2)).astype(np.float32)
    objective = NegativeSampling(flat.tobytes(), threshold=1.0)

    def draw(rows):
        ids = rng.integers(2, 31, (rows, 96)) + 29 * rng.integers(0, 2, (rows, 1))
        full = {"lengths": np.full(rows, 96, np.int32), "labels": np.arange(rows, dtype=np.int32)}
        batch = {**full, "token_ids": ids.astype(np.int32), "weights": np.ones(rows, np.float32)}
        return {name: jnp.asarray(array) for name, array in batch.items()}

    step = jax.jit(objective.descend)
    params = jax.tree.map(jnp.zeros_like, golden.random(MODEL))  # as at first
    for number in range(150):
        params, _ = step(params, draw(64), jax.random.key(number), jnp.float32(0.05))
    sums = objective(MODEL, params, draw(200), jax.random.key(0), deterministic=True)
    sums = {name: float(value) for name, value in sums.items()}
    assert objective.mean_loss(sums) < 0.8 * 6 * np.log(2)
    assert np.log(29) < sums["nats"] / sums["predictions"] < np.log(58) - 0.5
