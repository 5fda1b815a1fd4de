"""What the classifier of averaged n-gram embeddings starts from, against a plain loop."""

import numpy as np
import pytest

from sentiment_jax.config.schema import AverageConfig, Config, DataConfig
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models import average
from sentiment_jax.training.trained_model import make_classifier

TEXTS = ["not a good film", "a day, not a film, not at all", "good", "xyzzy"]
RNG = np.random.default_rng(0)


def rows(encoded):
    """The token ids of each text."""
    return np.split(encoded.token_ids, encoded.offsets[1:-1])


def sum_of(table, ids):
    """The sum of the embeddings of a text's words and bigrams."""
    return sum(table[i] for of_word in ids for i in of_word)


def weigh(source, encoded):
    return average.weigh(*source.values(), encoded.token_ids, encoded.offsets)


@pytest.fixture(scope="module")
def learned():
    """The embeddings and frequencies of words and bigrams, as a pre-training has them; texts."""
    tokenizer = train_word_level(TEXTS[:3], 100, 1, ngrams=2, ngram_frequency=1)
    size = tokenizer.get_vocab_size()
    table = RNG.normal(size=(size, 6)).astype(np.float32)
    counts = RNG.integers(1, 9, (size, 1)).astype(np.float32)
    counts[:2] = 0  # [PAD], [UNK]
    source = {"embedding": table, "embedding_frequencies": counts / counts.sum()}
    config = Config(model=AverageConfig(embedding_size=6), data=DataConfig(max_length=9, ngrams=2))
    classifier = make_classifier(config, tokenizer)
    return source, classifier.encode(Texts.from_texts(TEXTS))


def test_embeddings_are_weighted_by_smooth_inverse_frequency_and_centered(learned):
    source, encoded = learned
    frequencies = source["embedding_frequencies"][:, 0]
    weighted = weigh(source, encoded)
    weights = 1e-4 / (1e-4 + frequencies)
    mean = sum(f * w * e for f, w, e in zip(frequencies, weights, source["embedding"], strict=True))
    mean /= sum(frequencies * weights)
    expected = [w * (e - mean) for w, e in zip(weights, source["embedding"], strict=True)]
    expected[0] = expected[1] = np.zeros(6)
    squares = [np.mean(sum_of(expected, ids) ** 2) / len(ids) for ids in rows(encoded)]
    np.testing.assert_allclose(weighted, expected / np.sqrt(np.mean(squares)), rtol=1e-4)


def test_the_bias_starts_at_the_log_odds(learned):
    source, encoded = learned
    table, frequencies = source.values()
    dense = {"kernel": np.ones((6, 2)), "bias": np.zeros(2)}
    params = {"embedding": {"embedding": table}, "classifier": dense}
    odds = np.array([1 / 5, 4 / 5])
    first = average.start(params, frequencies, encoded.token_ids, encoded.offsets, odds)
    np.testing.assert_allclose(np.exp(first["classifier"]["bias"]), odds, rtol=1e-6)
    np.testing.assert_array_equal(first["embedding"]["embedding"], weigh(source, encoded))
    assert first["classifier"]["kernel"] is params["classifier"]["kernel"]
