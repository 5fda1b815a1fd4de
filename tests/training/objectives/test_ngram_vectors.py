"""N-gram vectors: paragraph vectors and embeddings by negative sampling, against plain loops."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.config.schema import LstmConfig
from sentiment_jax.models.lstm import NgramEmbeddings
from sentiment_jax.training.objectives.ngram_vectors import (
    NOISE_SAMPLES,
    NgramVectors,
    make_train_step,
    sampled_losses,
)
from sentiment_jax.training.steps import TrainState

SIZE = 60
LONGEST = 3  # n-gram
WIDTH = 6
LENGTHS = np.array([11, 4, 9, 1], np.int32)
FREQUENCIES = np.zeros(SIZE, np.float32)
FREQUENCIES[2:] = 1 / np.arange(2, SIZE)
FREQUENCIES /= FREQUENCIES.sum()
OBJECTIVE = NgramVectors(
    FREQUENCIES.tobytes(), threshold=0.02, at_once=4, noise_samples=7, most_at_once=5
)
MODEL = NgramEmbeddings(LstmConfig(vocab_size=SIZE, embedding_size=WIDTH))
RATE = 0.3
FACTORS = OBJECTIVE.rate_factors(5)
NOISE = 10  # two samples for each row where embeddings move


def take_step(objective, params, batch, key, rate):
    """One step from these parameters, whose keys derive from fold_in(key, 0)."""
    state = TrainState(jnp.int32(0), jax.tree.map(jnp.copy, params), (), key)
    state, sums = make_train_step(objective)(state, batch, jnp.float32(rate))
    return state.params, sums


def make_batch(length=12, rows=4, ngrams=True):
    """Words, n-grams at some, an unknown one, and padding: a copy of the first row."""
    rng = np.random.default_rng(0)
    ids = np.zeros((rows + 1, length, LONGEST), np.int32)
    for row, count in enumerate(LENGTHS[:rows]):
        drawn = rng.integers(2, SIZE, (count, LONGEST))
        drawn[:, 1:] *= rng.random((count, LONGEST - 1)) < 0.6
        drawn[0, 0] = 1
        ids[row, :count] = drawn
    ids[rows] = ids[0]
    lengths = np.append(LENGTHS[:rows], LENGTHS[0])
    numbers = np.arange(rows + 1, dtype=np.int32) + 5
    weights = (np.arange(rows + 1) < rows).astype(np.float32)
    ids = ids if ngrams else ids[:, :, 0]
    batch = {"token_ids": ids, "lengths": lengths, "labels": numbers, "weights": weights}
    return {name: jnp.asarray(array) for name, array in batch.items()}


def test_frequent_words_are_subsampled():
    kept, noise = OBJECTIVE.kept_and_noise()
    assert kept[0] == kept[1] == noise[0] == noise[1] == 0
    expected = np.minimum(np.sqrt(0.02 / FREQUENCIES[2:]), 1)
    np.testing.assert_allclose(kept[2:], expected, rtol=1e-5)
    left = (expected * FREQUENCIES[2:]) ** 0.75
    np.testing.assert_allclose(noise[2:], left / left.sum(), rtol=1e-5)
    batch = make_batch()
    shares = np.mean(
        [np.asarray(OBJECTIVE.subsample(batch, jax.random.key(seed))) for seed in range(400)],
        axis=0,
    )
    ids = np.asarray(batch["token_ids"]).reshape(shares.shape)
    expected = kept[ids] * np.asarray(batch["weights"])[:, None]
    np.testing.assert_allclose(shares, expected, atol=4.5 * 0.5 / np.sqrt(400))
    assert not shares[expected == 0].any()


def test_negative_samples_follow_the_noise_distribution():
    drawn = np.asarray(OBJECTIVE.sample_noise(jax.random.key(0), 200_000))
    shares = np.bincount(drawn, minlength=SIZE) / len(drawn)
    np.testing.assert_allclose(shares, OBJECTIVE.kept_and_noise()[1], atol=0.003)


def test_words_that_are_updated_often_at_once_have_a_smaller_rate():
    kept, noise = OBJECTIVE.kept_and_noise()
    left = kept * FREQUENCIES
    updates = 5 * 4 * (left / left.sum() + 5 * noise)
    assert 0 < (updates > 5).sum() < SIZE
    np.testing.assert_allclose(FACTORS * updates, np.minimum(updates, 5), rtol=1e-6)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_descend(table, texts, words, others_of, rate):
    """A loop over updates, texts, words and noise; everything moves after each update."""
    each = [-(-len(row) // OBJECTIVE.at_once) for row in words]
    sums = dict.fromkeys(("loss", "correct", "gradients", "updates"), 0.0)

    def move(gradients, words):
        sums["gradients"] += np.sum(gradients**2)
        sums["updates"] += np.sum((rate * FACTORS[words, None] * gradients) ** 2)
        np.add.at(after, words, -rate * FACTORS[words, None] * gradients)

    for number in range(max(each)):
        after, of_texts, others = table.copy(), np.zeros_like(texts), others_of(number)
        of_others, weight = np.zeros((len(others), WIDTH)), OBJECTIVE.negatives / len(others)
        for row, text in enumerate(texts):
            some = words[row][number :: each[row]] if number < each[row] else []
            for word in some:
                score = text @ table[word]
                sums["loss"] -= np.log(sigmoid(score))
                sums["correct"] += score > 0
                of_texts[row] += (sigmoid(score) - 1) * table[word]
                move((sigmoid(score) - 1) * text[None], np.array([word]))
                for slot, other in enumerate(others):
                    score = text @ table[other]
                    sums["loss"] -= weight * np.log(sigmoid(-score))
                    of_texts[row] += weight * sigmoid(score) * table[other]
                    of_others[slot] += weight * sigmoid(score) * text
        move(of_others, others)
        table, texts = after, texts - OBJECTIVE.text_rate * of_texts
    return table, texts, sums


@pytest.mark.parametrize("ngrams", [True, False])
def test_a_step_equals_a_plain_loop(ngrams):
    batch, key = make_batch(ngrams=ngrams), jax.random.key(3)
    params = golden.random(MODEL)
    found, sums = take_step(OBJECTIVE, params, batch, key, RATE)
    thinning, finding, learning = jax.random.split(jax.random.fold_in(key, 0), 3)
    kept = OBJECTIVE.subsample(batch, thinning)
    ids = np.asarray(batch["token_ids"]).reshape(kept.shape)
    words = [row[those] for row, those in zip(ids, np.asarray(kept), strict=True)]
    assert not len(words[4]) and max(map(len, words)) > (1 + ngrams) * OBJECTIVE.at_once

    def drawn(key, count):
        return lambda number: np.asarray(
            OBJECTIVE.sample_noise(jax.random.fold_in(key, number), count)
        )

    table = params["embedding"]["embedding"]
    small = np.asarray(OBJECTIVE.infer_texts(table, batch, jnp.zeros_like(kept), key), np.float64)
    assert 0 < np.abs(small).max() <= 0.5 / WIDTH
    exact = np.asarray(table, np.float64)
    _, texts, _ = plain_descend(exact, small, words, drawn(finding, 7), 0.0)
    np.testing.assert_allclose(
        OBJECTIVE.infer_texts(table, batch, kept, finding), texts, rtol=1e-4, atol=1e-6
    )
    moved, _, expected = plain_descend(exact, texts, words, drawn(learning, NOISE), RATE)
    np.testing.assert_allclose(found["embedding"]["embedding"], moved, rtol=1e-4, atol=1e-6)
    assert np.abs(moved - exact).max() > 0.01
    for name, norm in {"gradients": "gradient_norm", "updates": "update_norm"}.items():
        assert float(sums.pop(norm)) == pytest.approx(np.sqrt(expected.pop(name)), rel=1e-4)
    expected["examples"] = sum(map(len, words))
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected, rel=1e-4)


def test_a_paragraph_vector_depends_on_neither_batch_nor_padding():
    table = golden.random(MODEL)["embedding"]["embedding"]
    batches = make_batch(), make_batch(length=20, rows=3)
    found = []
    for batch in batches:
        kept = OBJECTIVE.subsample(batch, jax.random.key(0))
        found.append(np.asarray(OBJECTIVE.infer_texts(table, batch, kept, jax.random.key(1))))
    np.testing.assert_allclose(found[1][:3], found[0][:3], rtol=1e-5, atol=1e-7)
    predicted = [np.asarray(OBJECTIVE.held_out_half(batch, jax.random.key(2))) for batch in batches]
    np.testing.assert_array_equal(predicted[1][:3, : predicted[0].shape[1]], predicted[0][:3])


@pytest.mark.parametrize("ngrams", [True, False])
def test_held_out_words_are_predicted_by_the_vector_of_the_others(ngrams):
    """Scored are the words of one half by a vector of the other, which has no word of the first."""
    params, batch, key = (
        golden.random(MODEL, scale=1.0),
        make_batch(ngrams=ngrams),
        jax.random.key(2),
    )
    sums = OBJECTIVE(MODEL, params, batch, key, deterministic=True)
    thinning, halving, finding, sampling = jax.random.split(key, 4)
    kept, predicted = OBJECTIVE.subsample(batch, thinning), OBJECTIVE.held_out_half(batch, halving)
    by_position = np.asarray(predicted).reshape(*batch["token_ids"].shape[:2], -1)
    assert (by_position == by_position[:, :, :1]).all()
    table = params["embedding"]["embedding"]
    found = OBJECTIVE.infer_texts(table, batch, kept & ~predicted, finding)
    texts, table = np.asarray(found, np.float64), np.asarray(table, np.float64)
    others = table[np.asarray(OBJECTIVE.sample_noise(sampling, NOISE_SAMPLES))]
    ids, noise = np.asarray(batch["token_ids"]).reshape(kept.shape), OBJECTIVE.kept_and_noise()[1]
    expected = dict.fromkeys(sums, 0.0)
    for row, column in zip(*np.nonzero(np.asarray(kept & predicted)), strict=True):
        word, scores = ids[row, column], others @ texts[row]
        score = table[word] @ texts[row]
        expected["loss"] -= np.log(sigmoid(score)) + 5 * np.mean(np.log(sigmoid(-scores)))
        total = (np.exp(scores).sum() + np.exp(score)) / (len(scores) + 1)
        expected["nats"] -= score + np.log(noise[word]) - np.log(total)
        expected["correct"] += score > 0
        expected["examples"] += 1
        expected["predictions"] += 1
    assert expected["examples"] > 5 < (kept & ~predicted).sum()
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(expected, rel=1e-4)


def test_many_texts_at_once_do_not_overshoot():
    """With 512 noise samples and no more, each would move by 80 times one text's share."""
    vocabulary, rows = 2500, 1024
    flat = np.where(np.arange(vocabulary) < 2, 0, 1 / (vocabulary - 2)).astype(np.float32)
    objective = NgramVectors(flat.tobytes())
    model = NgramEmbeddings(LstmConfig(vocab_size=vocabulary, embedding_size=8))
    params, rng = jax.tree.map(jnp.zeros_like, golden.random(model)), np.random.default_rng(0)
    for number in range(6):
        topics = rng.integers(0, 20, (rows, 1))
        ids = (
            2 + topics * (vocabulary // 20 - 1) + rng.integers(0, vocabulary // 20 - 1, (rows, 96))
        )
        batch = {"token_ids": ids.astype(np.int32), "lengths": np.full(rows, 96, np.int32)}
        batch |= {"labels": np.arange(rows, dtype=np.int32), "weights": np.ones(rows, np.float32)}
        batch = jax.tree.map(jnp.asarray, batch)
        params, sums = take_step(objective, params, batch, jax.random.key(number), 0.1)
    assert float(sums["loss"] / sums["examples"]) < 0.5 * 6 * np.log(2)


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


def test_an_untrained_table_is_at_chance():
    params = jax.tree.map(jnp.zeros_like, golden.random(MODEL))
    batch, key = make_batch(), jax.random.key(3)
    sums = OBJECTIVE(MODEL, params, batch, key, deterministic=True)
    predicted = int(sums["examples"])
    assert float(sums["loss"]) == pytest.approx(predicted * 6 * np.log(2), rel=1e-5)
    thinning, halving, *_ = jax.random.split(key, 4)
    counted = np.asarray(
        OBJECTIVE.subsample(batch, thinning) & OBJECTIVE.held_out_half(batch, halving)
    )
    ids = np.asarray(batch["token_ids"]).reshape(counted.shape)[counted]
    noise = OBJECTIVE.kept_and_noise()[1]
    assert float(sums["nats"]) == pytest.approx(-np.log(noise[ids]).sum(), rel=1e-5)
    assert float(sums["predictions"]) == predicted == counted.sum()


def test_it_learns_which_words_go_together():
    """Two topics of 29 words each: held-out texts get likelier than by the words' shares."""
    rng = np.random.default_rng(0)
    flat = np.where(np.arange(SIZE) < 2, 0, 1 / (SIZE - 2)).astype(np.float32)
    objective = NgramVectors(flat.tobytes(), threshold=1.0)

    def draw(rows):
        ids = rng.integers(2, 31, (rows, 96)) + 29 * rng.integers(0, 2, (rows, 1))
        full = {"lengths": np.full(rows, 96, np.int32), "labels": np.arange(rows, dtype=np.int32)}
        batch = {**full, "token_ids": ids.astype(np.int32), "weights": np.ones(rows, np.float32)}
        return {name: jnp.asarray(array) for name, array in batch.items()}

    params = jax.tree.map(jnp.zeros_like, golden.random(MODEL))  # as at first
    for number in range(60):
        params, _ = take_step(objective, params, draw(64), jax.random.key(number), 0.05)
    sums = objective(MODEL, params, draw(200), jax.random.key(0), deterministic=True)
    sums = {name: float(value) for name, value in sums.items()}
    assert objective.mean_loss(sums) < 0.8 * 6 * np.log(2)
    assert np.log(29) < sums["nats"] / sums["predictions"] < np.log(58) - 0.5
