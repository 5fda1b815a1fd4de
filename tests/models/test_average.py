"""The classifier of averaged n-gram embeddings against a plain loop over words."""

import golden
import numpy as np
import pytest

from sentiment_jax.analysis import integrated_gradients
from sentiment_jax.config.schema import AverageConfig, Config, DataConfig
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.models import average
from sentiment_jax.training.trained_model import TrainedModel, make_classifier

TEXTS = ["not a good film", "a day, not a film, not at all", "good", "xyzzy"]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def trained():
    """Words and bigrams; the embeddings are those of a pre-training, weighted."""
    tokenizer = train_word_level(TEXTS[:3], 100, 1, ngrams=2, ngram_frequency=1)
    size = tokenizer.get_vocab_size()
    table = RNG.normal(size=(size, 6)).astype(np.float32)
    counts = RNG.integers(1, 9, (size, 1)).astype(np.float32)
    counts[:2] = 0  # [PAD], [UNK]
    source = {"embedding": table, "embedding_frequencies": counts / counts.sum()}
    params = {"embedding": {"embedding": average.weigh(*source.values())}}
    config = Config(model=AverageConfig(embedding_size=6), data=DataConfig(max_length=9, ngrams=2))
    classifier = make_classifier(config, tokenizer)
    dense = golden.random(classifier.model, 1.0)["classifier"]
    trained = TrainedModel(**vars(classifier), params=params | {"classifier": dense}, step=0)
    return trained, source


def test_embeddings_are_weighted_by_smooth_inverse_frequency_and_centered(trained):
    _, source = trained
    frequencies = source["embedding_frequencies"][:, 0]
    weighted = average.weigh(*source.values())
    weights = 1e-4 / (1e-4 + frequencies)
    mean = sum(f * w * e for f, w, e in zip(frequencies, weights, source["embedding"], strict=True))
    mean /= sum(frequencies * weights)
    expected = [w * (e - mean) for w, e in zip(weights, source["embedding"], strict=True)]
    variance = sum(f * np.mean(e**2) for f, e in zip(frequencies, expected, strict=True))
    np.testing.assert_allclose(weighted[2:], expected[2:] / np.sqrt(variance), rtol=1e-4)
    assert not weighted[:2].any()


def test_logits_equal_a_plain_loop_whatever_the_padding(trained):
    trained, _ = trained
    encoded = trained.encode(Reviews.from_texts(TEXTS))
    table = trained.params["embedding"]["embedding"]
    dense = trained.params["classifier"]
    expected = []
    for start, end in zip(encoded.offsets, encoded.offsets[1:], strict=False):
        total = sum(table[i] for ids in encoded.token_ids[start:end] for i in ids if i)
        scaled = total / np.sqrt(end - start)
        expected.append(scaled @ dense["kernel"] + dense["bias"])
    np.testing.assert_array_equal(expected[3], dense["bias"])  # no word is known
    for length in (9, 12):
        batch = make_batch(encoded, PlannedBatch(np.arange(len(TEXTS)), length), 5)
        logits = golden.logits(trained.model, trained.params, batch)
        np.testing.assert_allclose(logits[: len(TEXTS)], expected, rtol=0, atol=1e-5)


def test_its_predictions_are_explained(trained):
    explanation = integrated_gradients.explain(trained[0], TEXTS[0])
    assert [TEXTS[0][word.start : word.end] for word in explanation.words] == TEXTS[0].split()
    assert explanation.complete
