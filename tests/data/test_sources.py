"""The readers by name, and the embedded sample."""

import pytest

from sentiment_jax.config import DataConfig
from sentiment_jax.data.sources import read_reviews
from sentiment_jax.errors import InputError


def test_sample_is_balanced_and_unlike_itself():
    pool, test = read_reviews(DataConfig("sample", "ignored", text_column="x", test_path="y"))
    assert len(pool) + len(test) >= 400
    assert abs(len(test) - 0.2 * (len(pool) + len(test))) <= 1
    for reviews in (pool, test):
        assert reviews.labels.sum() * 2 == len(reviews)
    assert len({*pool.texts, *test.texts}) == len(pool) + len(test)


def test_unknown_source_lists_the_known_ones():
    with pytest.raises(InputError, match="'imdb'.* tfds, folder, csv, sample"):
        read_reviews(DataConfig("imdb"))
