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

SAMPLE = Path(__file__).with_name("sample.csv")

# Each returns the training pool and the test set in the order of the source, and raises an
# InputError that names file and row where reviews are missing or malformed.
READERS: dict[str, Callable[[DataConfig], tuple[Reviews, Reviews]]] = {
    "tfds": lambda data: read_tfds(data.path),
    "folder": lambda data: read_folder(data.path),
    "csv": read_csv_reviews,
    "sample": lambda data: read_csv_reviews(
        replace(data, path=str(SAMPLE), text_column="text", label_column="label", test_path="")
    ),
}
