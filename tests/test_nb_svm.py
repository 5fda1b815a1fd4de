"""The linear baseline: its features are the paper's formula, and it learns the embedded sample."""

import collections
import math
import re

import numpy as np

from benchmarks.nb_svm import Choice, Features, train_and_test, try_all
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.reviews import Reviews

TEXTS = ["Good, good film!", "A good film", "Not good. Not a film", "Bad bad", "bad, a good bad !"]
LABELS = [1, 1, 0, 0, 0]


def ngrams(text, order):
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    return {tuple(words[i : i + n]) for n in range(1, order + 1) for i in range(len(words) - n + 1)}


def test_features_are_binary_ngrams_times_their_log_count_ratios():
    order = 3
    features = Features(Reviews.from_texts(TEXTS, LABELS), order)
    counts = [collections.Counter() for _ in range(2)]
    for text, label in zip(TEXTS, LABELS, strict=True):
        counts[label].update(ngrams(text, order))
    known = {*counts[0], *counts[1]}
    sums = [sum(1 + count[ngram] for ngram in known) for count in counts]

    def ratio(ngram):
        q, p = ((1 + count[ngram]) / total for count, total in zip(counts, sums, strict=True))
        return math.log(p / q)

    new = "A bad film: good, good film!"
    found = [features.of_training, features.of(Reviews.from_texts([new, "?"]))]
    assert [rows.shape for rows in found] == [(5, len(known)), (2, len(known))]
    rows = [*found[0].toarray(), *found[1].toarray()]
    for text, row in zip([*TEXTS, new, "?"], rows, strict=True):
        own = [*map(ratio, ngrams(text, order) & known)]
        expected = np.pad(own, (0, len(known) - len(own)))
        expected /= np.linalg.norm(expected) or 1
        np.testing.assert_allclose(sorted(row), sorted(expected))


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
