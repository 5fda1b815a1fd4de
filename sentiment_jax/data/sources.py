"""Where reviews come from: the readers by name of data.source.

To add one, say for TSV files, write a function like `csv_file.read_csv_reviews` in a file of its
own, enter it in `READERS`, and allow its name for data.source in config.py.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sentiment_jax.config import DataConfig
from sentiment_jax.data.csv_file import read_csv_reviews
from sentiment_jax.data.imdb_folder import read_folder
from sentiment_jax.data.imdb_tfds import read_tfds
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError

SAMPLE = Path(__file__).with_name("sample.csv")


def _read_sample(data: DataConfig) -> tuple[Reviews, Reviews]:
    data = replace(data, path=str(SAMPLE), text_column="text", label_column="label", test_path="")
    return read_csv_reviews(data)


READERS: dict[str, Callable[[DataConfig], tuple[Reviews, Reviews]]] = {
    "tfds": lambda data: read_tfds(data.path),
    "folder": lambda data: read_folder(data.path),
    "csv": read_csv_reviews,
    "sample": _read_sample,
}


def read_reviews(data: DataConfig) -> tuple[Reviews, Reviews]:
    """Return the training pool and the test set, in the order of the source.

    Raises:
      InputError: unknown source, or reviews that are missing or malformed, naming file and row.
    """
    if data.source not in READERS:
        raise InputError(f"data.source is {data.source!r}: choose one of {', '.join(READERS)}")
    return READERS[data.source](data)
