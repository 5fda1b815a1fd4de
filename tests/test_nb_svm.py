"""The linear baseline: its features are the paper's formula."""

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from benchmarks.accuracy.nb_svm import Features
from sentiment_jax.data.texts import Texts

TEXTS = ["Good, good film!", "A good film", "Not good. Not a film", "Bad bad", "bad, a good bad !"]
LABELS = [1, 1, 0, 0, 0]


def test_features_are_binary_ngrams_times_their_log_count_ratios():
    order = 3
    features = Features(Texts.from_texts(TEXTS, LABELS), order)
    ngrams = CountVectorizer(binary=True, ngram_range=(1, order), token_pattern=r"\w+|[^\w\s]+")
    counts = ngrams.fit_transform(TEXTS).toarray()
    p, q = (1 + counts[np.array(LABELS) == label].sum(axis=0) for label in (1, 0))
    new = ["A bad film: good, good film!", "?"]
    binary = np.concatenate([counts, ngrams.transform(new).toarray()])
    expected = normalize(binary * np.log((p / p.sum()) / (q / q.sum())))
    rows = vstack([features.of_training, features.of(Texts.from_texts(new))]).toarray()
    assert rows.shape == expected.shape and not rows[-1].any()
    np.testing.assert_allclose(np.sort(rows), np.sort(expected))  # their columns' order is free
