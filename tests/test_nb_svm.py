"""The linear baseline: its features are the paper's formula, and it learns the embedded sample."""

import math

import numpy as np
from scipy.sparse import vstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import normalize

from benchmarks.nb_svm import Choice, Features, train_and_test, try_all
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.reviews import Reviews

TEXTS = ["Good, good film!", "A good film", "Not good. Not a film", "Bad bad", "bad, a good bad !"]
LABELS = [1, 1, 0, 0, 0]


def test_features_are_binary_ngrams_times_their_log_count_ratios():
    order = 3
    features = Features(Reviews.from_texts(TEXTS, LABELS), order)
    ngrams = CountVectorizer(binary=True, ngram_range=(1, order), token_pattern=r"\w+|[^\w\s]+")
    counts = ngrams.fit_transform(TEXTS).toarray()
    p, q = (1 + counts[np.array(LABELS) == label].sum(axis=0) for label in (1, 0))
    new = ["A bad film: good, good film!", "?"]
    binary = np.concatenate([counts, ngrams.transform(new).toarray()])
    expected = normalize(binary * np.log((p / p.sum()) / (q / q.sum())))
    rows = vstack([features.of_training, features.of(Reviews.from_texts(new))]).toarray()
    assert rows.shape == expected.shape and not rows[-1].any()
    np.testing.assert_allclose(np.sort(rows), np.sort(expected))  # their columns' order is free


def test_it_learns_the_sample():
    splits = load_corpus(DataConfig(source="sample")).splits
    costs = {"SVM": (1.0,), "logistic regression": (30.0,)}
    tried = dict(try_all(splits["train"], splits["val"], (1, 2), costs))
    assert len(tried) == 12
    choice = Choice(2, "logistic regression", 30.0)
    result = train_and_test(choice, splits["train"], {"val": splits["val"], "test": splits["test"]})
    assert result["val"] == tried[choice]
    assert result["test"]["examples"] == 96
    assert result["test"]["accuracy"] > 0.6 and result["test"]["loss"] < math.log(2)
