"""Reviews -> splits without leaks -> token ids, cached on disk."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Shaped

from sentiment_jax.config import DataConfig
from sentiment_jax.data.reviews import (
    Reviews,
    is_blank,
    normalize_text,
    stratified_sample,
    stratified_split,
    text_hashes,
)
from sentiment_jax.data.sources import read_reviews
from sentiment_jax.errors import InputError


@dataclass(frozen=True)
class Corpus:
    """Normalised reviews of the splits train, val and test, and what was found on the way."""

    splits: dict[str, Reviews]
    statistics: dict[str, Any]


def load_corpus(data: DataConfig) -> Corpus:
    """Read, normalise and split the reviews.

    The training and validation splits come in an order that does not depend on that of the source.

    Returns:
        The splits, and JSON-able statistics: source, data_hash, counts (per split and class),
        extra_copies (per split), shared (reviews of one split whose text is in another one),
        grouped (texts of which several copies were kept on one side), contradictory (texts with
        both labels).

    Raises:
        InputError: missing, malformed or blank reviews, or only one class.
    """
    pool, test = (_normalize(reviews, data) for reviews in read_reviews(data))
    pool = _limit(pool, data.limit, data.split_seed)
    test = _limit(test, data.test_limit, data.split_seed)
    hashes = text_hashes(pool.texts)
    for label, name in enumerate(("negative", "positive")):
        if not (pool.labels == label).any():
            raise InputError(f"{_place(data)}: none of the {len(pool)} training reviews is {name}")
    kept, held = stratified_split(
        hashes,
        pool.labels,
        fraction=data.validation_fraction,
        seed=data.split_seed,
        grouped=data.group_duplicates,
    )
    splits = {"train": pool.take(kept), "val": pool.take(held), "test": test}
    split_hashes = {"train": hashes[kept], "val": hashes[held], "test": text_hashes(test.texts)}
    statistics = {"source": data.source, **_describe(splits, split_hashes)}
    return Corpus(splits, statistics)


def _place(data: DataConfig) -> str:
    return f"data.source {data.source}" + (f" ({data.path})" if data.path else "")


def _normalize(reviews: Reviews, data: DataConfig) -> Reviews:
    texts = tuple(normalize_text(text) for text in reviews.texts)
    blank = [name for name, text in zip(reviews.ids, texts, strict=True) if is_blank(text)]
    if blank:
        more = f" and {len(blank) - 5} more" if len(blank) > 5 else ""
        raise InputError(
            f"{_place(data)}: reviews without text ({', '.join(blank[:5])}{more}): remove them"
        )
    return replace(reviews, texts=texts)


def _limit(reviews: Reviews, count: int, seed: int) -> Reviews:
    if not 0 < count < len(reviews):
        return reviews
    hashes = text_hashes(reviews.texts)
    return reviews.take(stratified_sample(hashes, reviews.labels, count=count, seed=seed))


def _describe(
    splits: Mapping[str, Reviews], hashes: Mapping[str, Shaped[np.ndarray, " reviews"]]
) -> dict[str, Any]:
    lines, counts, copies, shared = [], {}, {}, {}
    for split, reviews in splits.items():
        classes = np.bincount(reviews.labels, minlength=2).tolist()
        counts[split] = {"neg": classes[0], "pos": classes[1]}
        copies[split] = len(reviews) - len(np.unique(hashes[split]))
        for label, digest in zip(reviews.labels.tolist(), hashes[split].tolist(), strict=True):
            lines.append(f"{split} {label} {digest.decode()}")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared[f"{first}_{second}"] = int(np.isin(hashes[second], hashes[first]).sum())
    texts, places = np.unique(np.concatenate(list(hashes.values())), return_inverse=True)
    labels = np.concatenate([reviews.labels for reviews in splits.values()])
    positive = np.bincount(places, labels, len(texts))
    several = np.unique(np.concatenate([hashes["train"], hashes["val"]]), return_counts=True)[1]
    return {
        "data_hash": hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),
        "counts": counts,
        "extra_copies": copies,
        "shared": shared,
        "grouped": int((several > 1).sum()),
        "contradictory": int(((positive > 0) & (positive < np.bincount(places))).sum()),
    }
