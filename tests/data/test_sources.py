"""The readers by name, and the embedded sample."""

import pytest

from configs import lstm
from sentiment_jax.config import SOURCES, DataConfig, validate
from sentiment_jax.data.sources import READERS
from sentiment_jax.errors import InputError


def test_sample_is_balanced_and_unlike_itself():
    pool, test = READERS["sample"](DataConfig("sample", "ignored", text_column="x", test_path="y"))
    assert len(pool) + len(test) >= 400
    assert abs(len(test) - 0.2 * (len(pool) + len(test))) <= 1
    for reviews in (pool, test):
        assert reviews.labels.sum() * 2 == len(reviews)
    assert len({*pool.texts, *test.texts}) == len(pool) + len(test)


def test_every_source_of_the_settings_has_a_reader():
    assert tuple(READERS) == SOURCES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "imdb"),
        ("truncation", "middle"),
        ("max_length", 2),
        ("test_fraction", 0.0),
        ("validation_fraction", 1.0),
        ("validation_fraction", float("nan")),
    ],
)
def test_settings_that_the_data_code_relies_on_are_checked_before(name, value):
    config = lstm.get_config("sample")
    config.data[name] = value
    with pytest.raises(InputError, match=f"data.{name}="):
        validate(config)
