"""The linear classifiers against a plain loop over words: logits and explanations."""

import functools
from types import SimpleNamespace

import golden
import jax
import numpy as np
import pytest

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.config.schema import AverageConfig, NgramConfig
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models.linear import NgramClassifier
from sentiment_jax.models.parameters import count_parameters

TEXTS = ["not a good film", "a day, not a film, not at all", "unforgettable!! good", "", "xyzzy :)"]


@pytest.fixture(scope="module", params=["ngrams", "average"])
def linear(request):
    """A model of random parameters: each id's weights, each column's factor, the bias."""
    if request.param == "ngrams":  # a word, its bigram, and buckets of its character n-grams
        tokenizer = train_word_level(TEXTS[:3], 100, min_frequency=1)
        config = NgramConfig(buckets=50)
    else:
        tokenizer = train_word_level(TEXTS[:3], 100, 1, ngrams=2, ngram_frequency=1)
        config = AverageConfig(embedding_size=6)
    trained = golden.make_run(config, tokenizer, max_length=6, truncation="tail")
    params = trained.params
    weights = np.asarray(params["embedding"]["embedding"])
    if request.param == "ngrams":
        return SimpleNamespace(trained=trained, weights=weights, bias=params["bias"], scale=0.25)
    dense = params["classifier"]
    weights = weights @ dense["kernel"]
    return SimpleNamespace(trained=trained, weights=weights, bias=dense["bias"], scale=1.0)


def weights_of(linear, ids):
    """The weights of a word and its n-grams: 0 is none, and the third is of characters."""
    return sum(linear.weights[i] * (1 if k < 2 else linear.scale) for k, i in enumerate(ids) if i)


def test_logits_equal_a_plain_loop_whatever_the_padding(linear):
    trained = linear.trained
    encoded = trained.encode(Reviews.from_texts(TEXTS))
    assert encoded.lengths.tolist() == [4, 6, 3, 1, 2]
    expected = []
    for ids in np.split(encoded.token_ids, encoded.offsets[1:-1]):
        total = sum(weights_of(linear, of_word) for of_word in ids)
        expected.append(total / np.sqrt(len(ids)) + linear.bias)
    for length in (6, 9):
        batch = make_batch(encoded, PlannedBatch(np.arange(len(TEXTS)), length), 7)
        logits = golden.logits(trained.model, trained.params, batch)
        np.testing.assert_allclose(logits[: len(TEXTS)], expected, rtol=0, atol=1e-5)


def test_many_classes_have_fewer_buckets():
    config = NgramConfig(vocab_size=10)
    tokens = np.zeros((1, 4, 32), np.int32)
    for classes, buckets in ((2, 2**18), (10, 2**18), (77, 2**21 // 77), (1000, 2**21 // 1000)):
        model = NgramClassifier(config, classes=classes)
        init = functools.partial(model.init, deterministic=True)
        params = jax.eval_shape(init, jax.random.key(0), tokens, np.array([4]))["params"]
        assert params["embedding"]["embedding"].shape == (10 + buckets, classes)
    assert NgramConfig(buckets=64).used_buckets(77) == 64


def test_attributions_are_the_weights_of_the_words_and_their_ngrams(linear):
    text = TEXTS[0]
    explanation = integrated_gradients.explain(linear.trained, text)
    assert [text[word.start : word.end] for word in explanation.words] == text.split()
    encoded = linear.trained.encode(Reviews.from_texts([text]))
    for word, ids in zip(explanation.words, encoded.token_ids, strict=True):
        (difference,) = np.diff(weights_of(linear, ids)) / 2  # sqrt of four words
        assert word.attribution == pytest.approx(float(difference), abs=1e-4)
    assert explanation.empty_log_odds == pytest.approx(float(np.diff(linear.bias)[0]), abs=1e-5)
    assert explanation.complete


def test_each_class_has_a_weight_per_word_and_bucket_and_a_bias():
    model = NgramClassifier(NgramConfig(vocab_size=10, buckets=50), classes=3)
    assert count_parameters(model) == (10 + 50 + 1) * 3


def test_an_average_of_words_alone_leaves_padding_out():
    tokenizer = train_word_level(TEXTS[:3], 100, min_frequency=1)
    trained = golden.make_run(AverageConfig(embedding_size=6), tokenizer, max_length=6)
    encoded = trained.encode(Reviews.from_texts(TEXTS))
    rows = np.arange(len(TEXTS))
    short, long = (
        golden.logits(trained.model, trained.params, make_batch(encoded, PlannedBatch(rows, n), 5))
        for n in (6, 9)
    )
    np.testing.assert_allclose(short, long, rtol=0, atol=1e-6)
