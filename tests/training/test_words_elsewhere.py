"""An LSTM's pre-training: which words are predicted from which, and the softmax over a sample."""

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.config import LstmConfig
from sentiment_jax.models.pretrainers import WordVectors
from sentiment_jax.training.objectives import WordsElsewhere, sampled_losses

SEGMENT, SIZE = 4, 60
LENGTHS = np.array([11, 4, 9, 1], np.int32)  # segments of 4, 4, 3 words; one alone; ...
FREQUENCIES = np.zeros(SIZE, np.float32)
FREQUENCIES[2:] = 1 / np.arange(2, SIZE)
OBJECTIVE = WordsElsewhere((FREQUENCIES / FREQUENCIES.sum()).tobytes(), sample=50)


def make_batch(length=12, rows=4):
    """Every word of the batch is another one."""
    ids = np.zeros((rows, length), np.int32)
    word = 2
    for row, count in enumerate(LENGTHS[:rows]):
        ids[row, :count] = np.arange(word, word + count)
        word += count
    numbers, weights = np.arange(rows, dtype=np.int32) + 5, np.ones(rows, np.float32)
    batch = {"token_ids": ids, "lengths": LENGTHS[:rows], "labels": numbers, "weights": weights}
    return {name: jnp.asarray(array) for name, array in batch.items()}


def choose(batch):
    return map(np.asarray, OBJECTIVE.choose_targets(batch, SEGMENT, jax.random.key(0)))


def test_targets_are_all_the_words_outside_a_segment():
    batch = make_batch()
    targets, weights = choose(batch)
    assert targets.shape == (4, 3, OBJECTIVE.targets)
    for row, length in enumerate(LENGTHS):
        words = np.asarray(batch["token_ids"])[row, :length]
        for number in range(3):
            start = number * SEGMENT
            outside = {*words[:start], *words[start + SEGMENT :]}
            if start >= length or not outside:
                assert not weights[row, number].any()
            else:
                assert {*targets[row, number]} == outside
                assert weights[row, number].all()


def test_targets_depend_on_neither_batch_nor_padding():
    targets, weights = choose(make_batch())
    again, more = choose(make_batch(length=20, rows=3))
    kept = weights[:3] > 0
    np.testing.assert_array_equal(again[:, :3][kept], targets[:3][kept])
    np.testing.assert_array_equal(more[:, :3], weights[:3])
    assert not more[:, 3:].any()


def test_frequent_words_are_thinned_out():
    counts, shares = OBJECTIVE.counts_and_shares()
    assert counts[0] == shares[0] == 0
    frequency = FREQUENCIES[2:] / FREQUENCIES.sum()
    np.testing.assert_allclose(counts[2:], np.sqrt(1e-4 / frequency), rtol=1e-5)
    np.testing.assert_allclose(shares[2:], counts[2:] * frequency / (counts[2:] @ frequency))


def test_sampled_softmax_is_unbiased():
    """The sum's estimate is right in the mean; with a large sample, so is each loss."""
    _, shares = OBJECTIVE.counts_and_shares()
    rng = np.random.default_rng(0)
    scores = rng.normal(size=SIZE)
    full = shares @ np.exp(scores)
    drawn = scores[rng.choice(SIZE, (4000, 50), p=shares)]
    # Without its target, which the estimate includes.
    losses = np.asarray(sampled_losses(jnp.full((4000, 1), -50.0), jnp.asarray(drawn)))[:, 0]
    sums = np.exp(losses - 50.0) * 51 / 50
    assert abs(sums.mean() - full) < 4 * sums.std() / np.sqrt(len(sums))
    many = jnp.asarray(scores[rng.choice(SIZE, 400_000, p=shares)])
    exact = np.log(full) - scores
    np.testing.assert_allclose(sampled_losses(jnp.asarray(scores), many), exact, atol=0.01)


def test_scores_equal_a_plain_loop():
    config = LstmConfig(vocab_size=SIZE, embedding_size=6, segment_length=SEGMENT)
    model, batch = WordVectors(config), make_batch()
    params = golden.random(model)
    targets, _ = choose(batch)
    inputs = batch["token_ids"], batch["lengths"], jnp.asarray(targets), jnp.arange(2, 9)
    of_targets, of_others = model.apply({"params": params}, *inputs, deterministic=True)
    read, predicted = (np.asarray(params[name]["embedding"]) for name in ("embedding", "words"))
    for row, length in enumerate(LENGTHS):
        for number, start in enumerate(range(0, length, SEGMENT)):
            words = np.asarray(batch["token_ids"])[row, start : min(start + SEGMENT, length)]
            vector = read[words].sum(0) / np.sqrt(len(words))
            expected = predicted[targets[row, number]] @ vector
            np.testing.assert_allclose(of_targets[row, number], expected, atol=1e-5)
            np.testing.assert_allclose(of_others[row, number], predicted[2:9] @ vector, atol=1e-5)


def test_an_untrained_model_guesses_by_the_words_shares():
    config = LstmConfig(vocab_size=SIZE, embedding_size=6, segment_length=SEGMENT)
    model, batch = WordVectors(config), make_batch()
    params = jax.tree.map(jnp.zeros_like, golden.random(model))
    sums = OBJECTIVE(model, params, batch, jax.random.key(3), deterministic=True)
    choosing = jax.random.split(jax.random.key(3), 3)[0]
    targets, weights = OBJECTIVE.choose_targets(batch, SEGMENT, choosing)
    _, shares = OBJECTIVE.counts_and_shares()
    expected = -np.log(shares[targets][weights > 0]) @ np.asarray(weights)[weights > 0]
    assert float(sums["nats"]) == pytest.approx(expected, rel=1e-5)
    assert float(sums["predictions"]) == pytest.approx(float(weights.sum()))
