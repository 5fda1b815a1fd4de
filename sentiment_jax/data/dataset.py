"""From a source to the splits train, val and test, without leakage between them.

To add a source, such as a database, write a reader like `table.read_texts` in a file of its own,
enter it in `READERS`, and allow its name for data.source in config/schema.py. A reader returns the
training pool, the test set and, if the source has one of its own, the validation set, each in the
source's order, or raises an InputError with file and row.
"""

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import CLASSES, DataConfig, join_names
from sentiment_jax.config.stored import flatten
from sentiment_jax.data.imdb import is_prepared, is_published, read_folder, read_tfds
from sentiment_jax.data.labels import same_classes
from sentiment_jax.data.table import CLASS_FOLDERS, FORMATS, read_texts
from sentiment_jax.data.texts import Texts, stratified_sample, stratified_split

SAMPLE = Path(__file__).with_name("sample.csv")
SAMPLE_TABLE: dict[str, Any] = {
    "path": str(SAMPLE),
    "text_column": "text",
    "label_column": "label",
    "labels": ",".join(CLASSES),
    "test_path": "",
    "validation_path": "",
}
READERS: dict[str, Callable[[DataConfig], tuple[Texts, ...]]] = {
    "tfds": lambda data: read_tfds(data.path),
    "folder": lambda data: read_folder(data.path),
    "csv": read_texts,
    "sample": lambda data: read_texts(replace(data, **SAMPLE_TABLE)),
}


def infer_source(config: ConfigDict) -> ConfigDict:
    """Return a config whose data.source is that of its data.path, as far as the path shows it."""
    named = flatten(config).get("data.path")
    if not named:
        return config
    path = Path(named).expanduser()
    if is_prepared(named):
        source = "tfds"
    elif is_published(path):
        source = "folder"
    elif path.suffix.lower() in FORMATS or path.is_file() or any(path.glob(CLASS_FOLDERS)):
        source = "csv"
    else:
        return config
    return override(config, {"data.source": source})


@dataclass(frozen=True)
class Dataset:
    """Texts of the splits train, val and test, and their statistics."""

    splits: dict[str, Texts]
    statistics: dict[str, Any]


def load_dataset(data: DataConfig) -> Dataset:
    """Read and split the texts; train and val do not depend on the order of the source.

    The statistics are JSON-able: source, data_hash, counts (per split and class), duplicates (per
    split), shared (texts of one split whose text is in another one), contradictory (texts whose
    copies differ in their labels), texts (per split).
    """
    pool, test, *validation = READERS[data.source](data)
    pool = stratified_sample(pool, count=data.limit, seed=data.split_seed)
    test = stratified_sample(test, count=data.test_limit, seed=data.split_seed)
    if validation:
        (val,) = validation
        val = val.take(np.lexsort((val.strata, val.hashes)))
        return make_dataset(data.source, train=pool, val=val, test=test)
    kept, held_out = stratified_split(
        pool, data.held_out, seed=data.split_seed, grouped=data.group_duplicates
    )
    return make_dataset(data.source, train=pool.take(kept), val=pool.take(held_out), test=test)


def make_dataset(source: str, **splits: Texts) -> Dataset:
    """Return splits with the statistics that `load_dataset` documents."""
    hashes = {name: split.hashes for name, split in splits.items()}
    lines = []
    labels_of = defaultdict(set)
    for name, split in splits.items():
        for label, digest in zip(split.codes.tolist(), split.hashes.tolist(), strict=True):
            lines.append(f"{name} {label} {digest.decode()}")
            labels_of[digest].add(str(label))
    classes = splits["train"].classes
    if not same_classes(classes, CLASSES):
        lines.append(f"classes {join_names(classes)}")
    keys = ("neg", "pos") if classes == CLASSES else classes
    statistics = {
        "source": source,
        "data_hash": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        "counts": {
            name: dict(zip(keys, split.labels.sum(axis=0).tolist(), strict=True))
            for name, split in splits.items()
        },
        "reviews": {name: len(split) for name, split in splits.items()},
        "duplicates": {name: len(of) - len(np.unique(of)) for name, of in hashes.items()},
        "shared": {
            f"{first}_{second}": int(np.isin(hashes[second], hashes[first]).sum())
            for first, second in itertools.combinations(hashes, 2)
        },
        "contradictory": sum(len(labels) > 1 for labels in labels_of.values()),
    }
    return Dataset(splits, statistics)
