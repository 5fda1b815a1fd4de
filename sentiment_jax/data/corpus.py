"""From a source to the splits train, val and test, without leaks between them."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sentiment_jax.config import DataConfig
from sentiment_jax.data.reviews import Reviews, is_blank, stratified_sample, stratified_split
from sentiment_jax.data.sources import read_reviews
from sentiment_jax.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """Reviews of the splits train, val and test, and what was found on the way."""

    splits: dict[str, Reviews]
    statistics: dict[str, Any]


def load_corpus(data: DataConfig) -> Corpus:
    """Read and split the reviews.

    The order of the training and validation splits does not depend on that of the source.

    Returns:
      The splits, and JSON-able statistics: source, data_hash, counts (per split and class),
      extra_copies (per split), shared (reviews of one split whose text is in another one),
      grouped (texts of which several copies were kept on one side), contradictory (texts with
      both labels).

    Raises:
      InputError: missing, malformed or blank reviews, or only one class.
    """
    source = f"data.source {data.source}" + (f" ({data.path})" if data.path else "")
    pool, test = read_reviews(data)
    for reviews in (pool, test):
        _refuse_blank(reviews, source)
    pool = stratified_sample(pool, count=data.limit, seed=data.split_seed)
    test = stratified_sample(test, count=data.test_limit, seed=data.split_seed)
    for label, name in enumerate(("negative", "positive")):
        if label not in pool.labels:
            raise InputError(f"{source}: none of the {len(pool)} training reviews is {name}")
    kept, held = stratified_split(
        pool,
        fraction=data.validation_fraction,
        seed=data.split_seed,
        grouped=data.group_duplicates,
    )
    splits = {"train": pool.take(kept), "val": pool.take(held), "test": test}
    return Corpus(splits, {"source": data.source, **_describe(splits)})


def _refuse_blank(reviews: Reviews, source: str) -> None:
    blank = [name for name, text in zip(reviews.ids, reviews.texts, strict=True) if is_blank(text)]
    if blank:
        more = f" and {len(blank) - 5} more" if len(blank) > 5 else ""
        raise InputError(
            f"{source}: reviews without text ({', '.join(blank[:5])}{more}): remove them"
        )


def _describe(splits: Mapping[str, Reviews]) -> dict[str, Any]:
    lines, counts, copies = [], {}, {}
    for split, reviews in splits.items():
        classes = np.bincount(reviews.labels, minlength=2).tolist()
        counts[split] = {"neg": classes[0], "pos": classes[1]}
        copies[split] = len(reviews) - len(np.unique(reviews.hashes))
        for label, digest in zip(reviews.labels.tolist(), reviews.hashes.tolist(), strict=True):
            lines.append(f"{split} {label} {digest.decode()}")
    hashes = {split: reviews.hashes for split, reviews in splits.items()}
    shared = {
        f"{first}_{second}": int(np.isin(hashes[second], hashes[first]).sum())
        for first, second in itertools.combinations(hashes, 2)
    }
    texts, rows = np.unique(np.concatenate(list(hashes.values())), return_inverse=True)
    labels = np.concatenate([reviews.labels for reviews in splits.values()])
    positive = np.bincount(rows, labels, len(texts))
    copied = np.unique(np.concatenate([hashes["train"], hashes["val"]]), return_counts=True)[1] > 1
    return {
        "data_hash": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        "counts": counts,
        "extra_copies": copies,
        "shared": shared,
        "grouped": int(copied.sum()),
        "contradictory": int(((positive > 0) & (positive < np.bincount(rows))).sum()),
    }
