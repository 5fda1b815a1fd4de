"""From a source to the splits train, val and test, without leaks between them.

To add a source, say a database, write a reader like `table.read_reviews` in a file of its own,
enter it in `READERS`, and allow its name for data.source in config.py. A reader returns the
training pool and the test set in the source's order, or raises an InputError with file and row.
"""

import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.config.schema import CLASSES, DataConfig
from sentiment_jax.data import reviews
from sentiment_jax.data.imdb_folder import read_folder
from sentiment_jax.data.imdb_tfds import read_tfds
from sentiment_jax.data.table import read_reviews
from sentiment_jax.errors import InputError

SAMPLE = Path(__file__).with_name("sample.csv")
READERS: dict[str, Callable[[DataConfig], tuple[reviews.Reviews, ...]]] = {
    "tfds": lambda data: read_tfds(data.path),
    "folder": lambda data: read_folder(data.path),
    "csv": read_reviews,
    "sample": lambda data: read_reviews(
        replace(data, path=str(SAMPLE), text_column="text", label_column="label", test_path="")
    ),
}


@dataclass(frozen=True)
class Corpus:
    """Reviews of the splits train, val and test, and what was found on the way."""

    splits: dict[str, reviews.Reviews]
    statistics: dict[str, Any]


def load_corpus(data: DataConfig) -> Corpus:
    """Read and split the reviews; the source's order does not change that of train and val.

    The statistics are JSON-able: source, data_hash, counts (per split and class), extra_copies (per
    split), shared (reviews of one split whose text is in another one), grouped (texts of which
    several copies were kept on one side), contradictory (texts with several labels).
    """
    source = f"data.source {data.source}" + (f" ({data.path})" if data.path else "")
    pool, test = READERS[data.source](data)
    named = [*zip(pool.ids, pool.texts, strict=True), *zip(test.ids, test.texts, strict=True)]
    if blank := [name for name, text in named if reviews.is_blank(text)]:
        names = reviews.first_five(blank)
        raise InputError(f"{source}: reviews without text ({names}): remove them")
    pool = reviews.stratified_sample(pool, count=data.limit, seed=data.split_seed)
    test = reviews.stratified_sample(test, count=data.test_limit, seed=data.split_seed)
    kept, held = reviews.stratified_split(
        pool, data.validation_fraction, seed=data.split_seed, grouped=data.group_duplicates
    )
    splits = {"train": pool.take(kept), "val": pool.take(held), "test": test}
    return Corpus(splits, {"source": data.source, **describe(splits)})


def describe(splits: dict[str, reviews.Reviews]) -> dict[str, Any]:
    """Return what `load_corpus` says of splits, but for their source."""
    hashes = {name: split.hashes for name, split in splits.items()}
    labels = {name: split.labels for name, split in splits.items()}
    lines = [
        f"{split} {label} {digest.decode()}"
        for split in splits
        for label, digest in zip(labels[split].tolist(), hashes[split].tolist(), strict=True)
    ]
    copies = np.unique(np.concatenate([hashes["train"], hashes["val"]]), return_counts=True)[1]
    texts, classes = (np.concatenate(list(arrays.values())) for arrays in (hashes, labels))
    names = splits["train"].classes
    pairs = np.unique(len(names) * np.unique(texts, return_inverse=True)[1] + classes)
    keys = ("neg", "pos") if names == CLASSES else names
    return {
        "data_hash": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        "counts": {
            split: dict(zip(keys, np.bincount(values, minlength=len(names)).tolist(), strict=True))
            for split, values in labels.items()
        },
        "extra_copies": {name: len(of) - len(np.unique(of)) for name, of in hashes.items()},
        "shared": {
            f"{first}_{second}": int(np.isin(hashes[second], hashes[first]).sum())
            for first, second in itertools.combinations(hashes, 2)
        },
        "grouped": int((copies > 1).sum()),
        "contradictory": int((np.unique(pairs // len(names), return_counts=True)[1] > 1).sum()),
    }
