"""The linear classifiers against plain loops over words: logits and explanations."""

from types import SimpleNamespace

import golden
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.config.schema import AverageConfig, LinearConfig
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models.linear import LinearClassifier
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.models.registry import build_model

TEXTS = ["not a good film", "a day, not a film, not at all", "unforgettable!! good", "", "xyzzy :)"]


@pytest.fixture(scope="module")
def linear():
    """A model of random parameters: each id's weights, and the bias."""
    tokenizer = train_word_level(TEXTS[:3], 100, 1, ngrams=2, ngram_frequency=1)
    config = AverageConfig(embedding_size=6)
    trained = golden.make_run(config, tokenizer, max_length=6, truncation="tail")
    dense = trained.params["classifier"]
    weights = np.asarray(trained.params["embedding"]["embedding"]) @ dense["kernel"]
    return SimpleNamespace(trained=trained, weights=weights, bias=dense["bias"])


def weights_of(linear, ids):
    """The weights of a word and its n-grams: 0 is none."""
    return sum(linear.weights[i] for i in ids if i)


def test_logits_equal_a_plain_loop_whatever_the_padding(linear):
    trained = linear.trained
    encoded = trained.encode(Texts.from_texts(TEXTS))
    assert encoded.lengths.tolist() == [4, 6, 3, 1, 2]
    expected = []
    for ids in np.split(encoded.token_ids, encoded.offsets[1:-1]):
        total = sum(weights_of(linear, of_word) for of_word in ids)
        expected.append(total / np.sqrt(len(ids)) + linear.bias)
    for length in (6, 9):
        batch = make_batch(encoded, PlannedBatch(np.arange(len(TEXTS)), length), 7)
        logits = golden.logits(trained.model, trained.params, batch)
        np.testing.assert_allclose(logits[: len(TEXTS)], expected, rtol=0, atol=1e-5)


def test_attributions_are_the_weights_of_the_words_and_their_ngrams(linear):
    text = TEXTS[0]
    explanation = integrated_gradients.explain(linear.trained, text)
    assert [text[word.start : word.end] for word in explanation.words] == text.split()
    encoded = linear.trained.encode(Texts.from_texts([text]))
    for word, ids in zip(explanation.words, encoded.token_ids, strict=True):
        (difference,) = np.diff(weights_of(linear, ids)) / 2  # sqrt of four words
        assert word.attribution == pytest.approx(float(difference), abs=1e-4)
    assert explanation.empty_log_odds == pytest.approx(float(np.diff(linear.bias)[0]), abs=1e-5)
    assert explanation.complete


@pytest.mark.parametrize(("classes", "multi_label"), [(2, False), (3, False), (3, True)])
def test_a_bag_of_ngrams_equals_a_plain_loop_whatever_the_padding(classes, multi_label):
    """Ids 2 and 3 are of words, 4 of characters; 1 is unknown."""
    model = build_model(LinearConfig(), vocab_size=5, classes=classes, multi_label=multi_label)
    params = golden.random(model)
    idf = np.abs(params["idf"]) * [[0, 0], [0, 0], [1, 0], [1, 0], [0, 1]]
    params["idf"] = jnp.asarray(idf, jnp.float32)
    rows = [[(1, 1), (2, 3), (3, 1), (4, 2)], [(4, 1)], [(1, 1)]]
    expected = []
    for row in rows:
        features = np.array([(1 + np.log(count)) * idf[i] for i, count in row])
        lengths = np.linalg.norm(features, axis=0)
        features = (features / np.where(lengths, lengths, 1)).sum(axis=1)
        z = features @ np.asarray(params["kernel"])[[i for i, _ in row]] + params["bias"]
        expected.append(z if multi_label or classes == 2 else -np.log1p(np.exp(-z)))
    for length in (4, 9):
        tokens = np.zeros((3, length, 2), np.int32)
        for row, filled in zip(rows, tokens, strict=True):
            filled[: len(row)] = row
        batch = {"token_ids": tokens, "lengths": np.int32([*map(len, rows)])}
        logits = golden.logits(model, params, batch)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-6)


def test_each_class_has_a_weight_per_ngram_and_a_bias():
    model = LinearClassifier(LinearConfig(vocab_size=10), classes=3)
    assert count_parameters(model) == 10 * (2 + 3) + 3


def test_an_average_of_words_alone_leaves_padding_out():
    tokenizer = train_word_level(TEXTS[:3], 100, min_frequency=1)
    trained = golden.make_run(AverageConfig(embedding_size=6), tokenizer, max_length=6)
    encoded = trained.encode(Texts.from_texts(TEXTS))
    rows = np.arange(len(TEXTS))
    short, long = (
        golden.logits(trained.model, trained.params, make_batch(encoded, PlannedBatch(rows, n), 5))
        for n in (6, 9)
    )
    np.testing.assert_allclose(short, long, rtol=0, atol=1e-6)
