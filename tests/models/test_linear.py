"""The linear classifier of n-grams against a plain loop over words, and how it is explained."""

import golden
import numpy as np
import pytest

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.config.schema import Config, DataConfig, NgramConfig
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models.linear import NgramClassifier
from sentiment_jax.training.parameters import count_parameters
from sentiment_jax.training.trained_model import TrainedModel, make_classifier

TEXTS = ["not a good film", "a day, not a film, not at all", "unforgettable!! good", "", "xyzzy :)"]


@pytest.fixture(scope="module")
def trained():
    tokenizer = train_word_level(TEXTS[:3], 100, min_frequency=1)
    data = DataConfig(max_length=6, truncation="tail")
    classifier = make_classifier(Config(model=NgramConfig(buckets=50), data=data), tokenizer)
    params = golden.random(classifier.model, 1.0)
    return TrainedModel(**vars(classifier), params=params, step=0)


def test_logits_equal_a_plain_loop_whatever_the_padding(trained):
    encoded = trained.encode(Reviews.from_texts(TEXTS))
    assert encoded.lengths.tolist() == [4, 6, 3, 1, 2]
    weights = np.asarray(trained.params["embedding"]["embedding"])
    sums = np.zeros((len(TEXTS), 2))
    for row, (start, end) in enumerate(zip(encoded.offsets, encoded.offsets[1:], strict=False)):
        for word, bigram, *characters in encoded.token_ids[start:end]:
            sums[row] += weights[word]
            sums[row] += weights[bigram] if bigram else 0
            sums[row] += sum(weights[one] for one in characters if one) / 4
    expected = sums / np.sqrt(encoded.lengths)[:, None] + trained.params["bias"]
    for length in (6, 9):
        batch = make_batch(encoded, PlannedBatch(np.arange(len(TEXTS)), length), 7)
        logits = golden.logits(trained.model, trained.params, batch)
        np.testing.assert_allclose(logits[: len(TEXTS)], expected, rtol=0, atol=1e-5)


def test_each_class_has_a_weight_per_word_and_bucket_and_a_bias():
    model = NgramClassifier(NgramConfig(vocab_size=10, buckets=50), classes=3)
    assert count_parameters(model) == (10 + 50 + 1) * 3


def test_attributions_are_the_weights_of_the_words_and_their_ngrams(trained):
    text = TEXTS[0]
    explanation = integrated_gradients.explain(trained, text)
    assert [text[word.start : word.end] for word in explanation.words] == text.split()
    encoded = trained.encode(Reviews.from_texts([text]))
    weights = np.asarray(trained.params["embedding"]["embedding"])
    for word, ids in zip(explanation.words, encoded.token_ids, strict=True):
        scales = np.array([1, 1] + [0.25] * (len(ids) - 2)) * (ids > 0)
        difference = scales @ (weights[ids, 1] - weights[ids, 0]) / 2  # sqrt of four words
        assert word.attribution == pytest.approx(float(difference), abs=1e-4)
    bias = trained.params["bias"]
    assert explanation.empty_log_odds == pytest.approx(float(bias[1] - bias[0]), abs=1e-5)
    assert explanation.complete
