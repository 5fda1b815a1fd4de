"""Texts for tests: random token ids, texts encoded as lists; tables written, read and refused."""

import csv
import dataclasses
import re

import numpy as np
import pytest

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.encoding import Encoded, encode
from sentiment_jax.data.texts import Texts, of_numbers
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.errors import InputError


def random_encoded(count, *, longest, vocabulary, seed=0, **changes):
    """Texts of random length, up to `longest` tokens, with random ids from 1 and labels."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, count)
    encoded = Encoded(
        labels=of_numbers(rng.integers(0, 2, count), 2),
        token_ids=rng.integers(1, vocabulary, lengths.sum()).astype(np.int32),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        truncated=0,
    )
    return dataclasses.replace(encoded, **changes)


def learn_words(texts, vocabulary_size=1000, min_frequency=1, **ngrams):
    """A word-level tokenizer, by default of every word."""
    return train_word_level(texts, vocabulary_size, min_frequency, **ngrams)


def encode_lists(tokenizer, texts, *, max_length=99, truncation="head"):
    """Token ids of each text, and how many texts were cut."""
    encoded = encode(tokenizer, Texts.from_texts(texts), max_length, truncation)
    rows = np.split(encoded.token_ids, encoded.offsets[1:-1])
    return [row.tolist() for row in rows], encoded.truncated


def write_csv(path, rows, header=("text", "label")):
    """Write the file and return its path as a config holds it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return str(path)


def write_data(folder, rows, test=(), **settings):
    """Write a table, and a test file if there are rows for one; return the DataConfig."""
    if test:
        settings["test_path"] = write_csv(folder / "test.csv", test)
    return DataConfig("csv", write_csv(folder / "reviews.csv", rows), **settings)


def read_table(path):
    """The rows of a CSV file, each a dict."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refuses(pattern, call, *arguments, **options):
    """Check that a call raises an InputError of one line with this pattern; return its message."""
    with pytest.raises(InputError, match=pattern or None) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def refusal(path, call, *arguments, **options):
    """The message of the InputError that a call raises: one line, with the path."""
    return refuses(re.escape(str(path)), call, *arguments, **options)
