"""N-gram vectors: paragraph vectors and embeddings by negative sampling, against plain loops."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_expit

from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.models.lstm import NgramEmbeddings
from sentiment_jax.training.objectives.ngram_vectors import (
    NOISE_SAMPLES,
    NgramVectors,
    make_train_step,
)
from sentiment_jax.training.steps import TrainState

SIZE = 60
LONGEST = 3  # n-gram
WIDTH = 6
LENGTHS = np.array([11, 4, 9, 1, 11], np.int32)
FREQUENCIES = np.zeros(SIZE, np.float32)
FREQUENCIES[2:] = 1 / np.arange(2, SIZE)
FREQUENCIES /= FREQUENCIES.sum()
OBJECTIVE = NgramVectors(
    FREQUENCIES.tobytes(), threshold=0.02, at_once=4, noise_samples=7, most_at_once=5
)
KEPT, NOISE = OBJECTIVE.kept_and_noise()
MODEL = NgramEmbeddings(LstmConfig(vocab_size=SIZE, embedding_size=WIDTH))
RATE = 0.3
FACTORS = OBJECTIVE.rate_factors(5)
infer_texts = jax.jit(OBJECTIVE.infer_texts)
STEP_SAMPLES = 10  # two for each row where embeddings move
with_and_without_ngrams = pytest.mark.parametrize("ngrams", [True, False])


def take_step(objective, params, batch, seed, rate):
    """One step from these parameters, whose keys derive from fold_in(key(seed), 0)."""
    table = {"embedding": {"embedding": jnp.array(params["embedding"]["embedding"])}}  # a copy
    state = TrainState(jnp.int32(0), table, (), jax.random.key(seed))
    state, sums = make_train_step(objective)(state, batch, jnp.float32(rate))
    return state.params, {name: float(value) for name, value in sums.items()}


def score(params, batch, key, objective=OBJECTIVE):
    """The objective's sums over held-out text."""
    sums = jax.jit(lambda *inputs: objective(MODEL, *inputs, deterministic=True))
    return {name: float(value) for name, value in sums(params, batch, key).items()}


def complete(ids, lengths=None, first=0, valid=None):
    """A batch of these token ids; rows from the first `valid` on are padding."""
    rows, length = ids.shape[:2]
    lengths = np.full(rows, length) if lengths is None else lengths
    batch = {"token_ids": ids, "lengths": lengths, "numbers": np.arange(rows) + first}
    batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
    weights = (np.arange(rows) < (valid or rows)).astype(np.float32)
    return {**batch, "weights": jnp.asarray(weights)}


def make_batch(ngrams=True):
    """Words, n-grams at some, an unknown one, and padding: a copy of the first row."""
    rng = np.random.default_rng(0)
    ids = np.zeros((5, 12, LONGEST), np.int32)
    for row, count in enumerate(LENGTHS[:4]):
        drawn = rng.integers(2, SIZE, (count, LONGEST))
        drawn[:, 1:] *= rng.random((count, LONGEST - 1)) < 0.6
        drawn[0, 0] = 1
        ids[row, :count] = drawn
    ids[4] = ids[0]
    return complete(ids if ngrams else ids[:, :, 0], LENGTHS, first=5, valid=4)


def ids_like(batch, mask):
    return np.asarray(batch["token_ids"]).reshape(mask.shape)


def test_words_are_subsampled_and_negative_samples_drawn_by_their_frequencies():
    assert KEPT[0] == KEPT[1] == NOISE[0] == NOISE[1] == 0
    expected = np.minimum(np.sqrt(0.02 / FREQUENCIES[2:]), 1)
    np.testing.assert_allclose(KEPT[2:], expected, rtol=1e-5)
    left = (expected * FREQUENCIES[2:]) ** 0.75
    np.testing.assert_allclose(NOISE[2:], left / left.sum(), rtol=1e-5)
    batch = make_batch()
    keys = jax.random.split(jax.random.key(0), 400)
    draws = jax.jit(jax.vmap(lambda key: OBJECTIVE.subsample(batch, key)))(keys)
    shares = np.mean(draws, axis=0)
    expected = KEPT[ids_like(batch, shares)] * np.asarray(batch["weights"])[:, None]
    np.testing.assert_allclose(shares, expected, atol=4.5 * 0.5 / np.sqrt(400))
    assert not shares[expected == 0].any()
    drawn = np.asarray(OBJECTIVE.sample_noise(jax.random.key(0), 200_000))
    shares = np.bincount(drawn, minlength=SIZE) / len(drawn)
    np.testing.assert_allclose(shares, NOISE, atol=0.003)


def test_words_that_are_updated_often_at_once_have_a_smaller_rate():
    left = KEPT * FREQUENCIES
    updates = 5 * 4 * (left / left.sum() + 5 * NOISE)
    assert 0 < (updates > 5).sum() < SIZE
    np.testing.assert_allclose(FACTORS * updates, np.minimum(updates, 5), rtol=1e-6)


def plain_descend(table, texts, words, noise_of, rate):
    """A loop over updates, texts, words and noise; everything moves after each update."""
    each = [-(-len(row) // OBJECTIVE.at_once) for row in words]
    sums = dict.fromkeys(("loss", "correct", "gradients", "updates"), 0.0)

    def move(gradients, words):
        sums["gradients"] += np.sum(gradients**2)
        sums["updates"] += np.sum((rate * FACTORS[words, None] * gradients) ** 2)
        np.add.at(after, words, -rate * FACTORS[words, None] * gradients)

    for number in range(max(each)):
        after = table.copy()
        of_texts = np.zeros_like(texts)
        noise = np.asarray(noise_of(number))
        of_noise = np.zeros((len(noise), WIDTH))
        weight = OBJECTIVE.negatives / len(noise)
        for row, text in enumerate(texts):
            some = words[row][number :: each[row]] if number < each[row] else []
            for word in some:
                score = text @ table[word]
                sums["loss"] -= log_expit(score)
                sums["correct"] += score > 0
                of_texts[row] += (expit(score) - 1) * table[word]
                move((expit(score) - 1) * text[None], np.array([word]))
                for slot, other in enumerate(noise):
                    score = text @ table[other]
                    sums["loss"] -= weight * log_expit(-score)
                    of_texts[row] += weight * expit(score) * table[other]
                    of_noise[slot] += weight * expit(score) * text
        move(of_noise, noise)
        table = after
        texts = texts - OBJECTIVE.text_rate * of_texts
    return table, texts, sums


@with_and_without_ngrams
def test_a_step_equals_a_plain_loop(ngrams):
    batch = make_batch(ngrams=ngrams)
    params = golden.random(MODEL)
    found, sums = take_step(OBJECTIVE, params, batch, 3, RATE)
    key = jax.random.key(3)
    thinning, inferring, learning = jax.random.split(jax.random.fold_in(key, 0), 3)
    kept = np.asarray(OBJECTIVE.subsample(batch, thinning))
    words = [row[those] for row, those in zip(ids_like(batch, kept), kept, strict=True)]
    assert not len(words[4]) and max(map(len, words)) > (1 + ngrams) * OBJECTIVE.at_once

    def noise(key, count):
        return lambda number: OBJECTIVE.sample_noise(jax.random.fold_in(key, number), count)

    table = params["embedding"]["embedding"]
    small = np.asarray(infer_texts(table, batch, jnp.zeros_like(kept), key), np.float64)
    assert 0 < np.abs(small).max() <= 0.5 / WIDTH
    exact = np.asarray(table, np.float64)
    _, texts, _ = plain_descend(exact, small, words, noise(inferring, 7), 0.0)
    inferred = infer_texts(table, batch, jnp.asarray(kept), inferring)
    np.testing.assert_allclose(inferred, texts, rtol=1e-4, atol=1e-6)
    moved, _, expected = plain_descend(exact, texts, words, noise(learning, STEP_SAMPLES), RATE)
    np.testing.assert_allclose(found["embedding"]["embedding"], moved, rtol=1e-4, atol=1e-6)
    assert np.abs(moved - exact).max() > 0.01
    expected["gradient_norm"] = np.sqrt(expected.pop("gradients"))
    expected["update_norm"] = np.sqrt(expected.pop("updates"))
    expected["examples"] = sum(map(len, words))
    assert sums == pytest.approx(expected, rel=1e-4)


@with_and_without_ngrams
def test_held_out_words_are_predicted_by_the_vector_of_the_others(ngrams):
    """The words of one half are scored by a vector of the other, which has none of them."""
    params = golden.random(MODEL, scale=1.0)
    batch = make_batch(ngrams=ngrams)
    key = jax.random.key(2)
    sums = score(params, batch, key)
    thinning, halving, inferring, sampling = jax.random.split(key, 4)
    kept = OBJECTIVE.subsample(batch, thinning)
    predicted = OBJECTIVE.held_out_half(batch, halving)
    by_position = np.asarray(predicted).reshape(*batch["token_ids"].shape[:2], -1)
    assert (by_position == by_position[:, :, :1]).all()
    table = params["embedding"]["embedding"]
    inferred = infer_texts(table, batch, kept & ~predicted, inferring)
    texts = np.asarray(inferred, np.float64)
    table = np.asarray(table, np.float64)
    noise = table[np.asarray(OBJECTIVE.sample_noise(sampling, NOISE_SAMPLES))]
    rows, columns = np.nonzero(np.asarray(kept & predicted))
    words = ids_like(batch, kept)[rows, columns]
    noise_scores = texts[rows] @ noise.T
    log_odds = np.sum(table[words] * texts[rows], axis=1)
    losses = -log_expit(log_odds) - 5 * log_expit(-noise_scores).mean(axis=1)
    totals = (np.exp(noise_scores).sum(axis=1) + np.exp(log_odds)) / (NOISE_SAMPLES + 1)
    nats = np.log(totals) - log_odds - np.log(NOISE[words])
    expected = {"loss": losses.sum(), "nats": nats.sum(), "correct": np.sum(log_odds > 0)}
    expected |= dict.fromkeys(("examples", "predictions"), len(words))
    assert expected["examples"] > 5 < (kept & ~predicted).sum()
    assert sums == pytest.approx(expected, rel=1e-4)


def test_it_learns_which_words_go_together():
    """Held-out texts get likelier than by the words' frequencies, which are all the same."""
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(SIZE) < 2, 0, 1 / (SIZE - 2)).astype(np.float32)
    objective = NgramVectors(flat.tobytes(), threshold=1.0)
    params = {"embedding": {"embedding": np.zeros((SIZE, WIDTH), np.float32)}}  # as at first
    for number in range(61):  # texts of 96 words, each of one of two topics with 29 of its own
        topics = 29 * rng.integers(0, 2, (64, 1))
        batch = complete(2 + rng.integers(0, 29, (64, 96)) + topics)
        if number < 60:
            params, _ = take_step(objective, params, batch, number, 0.05)
    sums = score(params, batch, jax.random.key(0), objective)
    assert objective.mean_loss(sums) < 0.8 * 6 * np.log(2)
    assert np.log(29) < sums["nats"] / sums["predictions"] < np.log(58) - 0.5
