"""Reviews -> splits without leaks -> token ids, cached on disk."""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, Shaped
from tokenizers import Tokenizer

from sentiment_jax.errors import InputError
from sentiment_jax.sources import DataConfig, Reviews, read_reviews
from sentiment_jax.splits import (
    is_blank,
    normalize_text,
    stratified_sample,
    stratified_split,
    text_hashes,
)
from sentiment_jax.tokenizers import encode, tokenizer_hash


@dataclass(frozen=True)
class Corpus:
    """Normalised reviews of the splits train, val and test, and what was found on the way."""

    splits: dict[str, Reviews]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """Token ids of one split; review i is token_ids[offsets[i]:offsets[i + 1]]."""

    ids: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    token_ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " reviews_and_one"]
    truncated: int

    def __len__(self) -> int:
        """Return the number of reviews."""
        return len(self.ids)

    @property
    def lengths(self) -> Int64[np.ndarray, " reviews"]:
        """Tokens per review, at least one."""
        return np.diff(self.offsets)


def load_corpus(data: DataConfig) -> Corpus:
    """Read, normalise and split the reviews.

    The training and validation splits come in an order that does not depend on that of the source.

    Returns:
        The splits, and JSON-able facts: source, data_hash, counts (per split and class),
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
    facts = {"source": data.source, **_describe(splits, split_hashes)}
    return Corpus(splits, facts)


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


def encode_corpus(corpus: Corpus, tokenizer: Tokenizer, data: DataConfig) -> dict[str, Encoded]:
    """Turn each split into token ids, or fetch them from the cache folder.

    The cache key covers the texts in their order, the tokenizer, max_length and truncation; a
    damaged file is rebuilt, and a folder that cannot be written is done without.
    """
    folder = cache_folder(data)
    how = f"{tokenizer_hash(tokenizer)} {data.max_length} {data.truncation}"
    encoded = {}
    for split, reviews in corpus.splits.items():
        key = hashlib.sha256(how.encode())
        for text in reviews.texts:
            key.update(hashlib.sha256(text.encode()).digest())
        file = folder / f"{key.hexdigest()}.npz"
        arrays = _read_cache(file, len(reviews))
        if arrays is None:
            sequences, truncated = encode(
                tokenizer, reviews.texts, max_length=data.max_length, truncation=data.truncation
            )
            flat = itertools.chain.from_iterable(sequences)
            offsets = np.cumsum([0, *map(len, sequences)], dtype=np.int64)
            arrays = {
                "token_ids": np.fromiter(flat, np.int32, int(offsets[-1])),
                "offsets": offsets,
                "truncated": np.int64(truncated),
            }
            _write_cache(file, arrays)
        encoded[split] = Encoded(
            ids=reviews.ids,
            labels=reviews.labels,
            token_ids=arrays["token_ids"],
            offsets=arrays["offsets"],
            truncated=int(arrays["truncated"]),
        )
    return encoded


def cache_folder(data: DataConfig) -> Path:
    """Return data.cache, or sentiment_jax in the user's cache folder."""
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(data.cache or Path(user) / "sentiment_jax").expanduser()


def _read_cache(file: Path, reviews: int) -> dict[str, Any] | None:
    try:
        # np.load leaves a damaged file open if it opens it itself; the zip checks CRCs.
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("token_ids", "offsets", "truncated")}
    except Exception:  # Absent or damaged in one of many ways: it is only a copy.
        return None
    fits = len(arrays["offsets"]) == reviews + 1
    return arrays if fits and arrays["offsets"][-1] == len(arrays["token_ids"]) else None


def _write_cache(file: Path, arrays: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(stream, **arrays)
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError:  # A read-only or full disk only costs the time to encode again.
        return


def check_encoded(encoded: Mapping[str, Encoded], vocabulary_size: int) -> None:
    """Check what an embedding and a loss would turn into NaN or clamp without a word.

    Raises:
        InputError: a token id that the embedding table lacks, or a label other than 0 and 1.
    """
    for split, reviews in encoded.items():
        outside = (reviews.token_ids < 0) | (reviews.token_ids >= vocabulary_size)
        if outside.any():
            raise InputError(
                f"token id {reviews.token_ids[outside][0]} of split {split} is not in the model's "
                f"vocabulary of {vocabulary_size}: use the tokenizer of its training run"
            )
        wrong = np.flatnonzero((reviews.labels != 0) & (reviews.labels != 1))
        if len(wrong):
            i = int(wrong[0])
            raise InputError(f"{split}, {reviews.ids[i]}: label {reviews.labels[i]} is not 0 or 1")
