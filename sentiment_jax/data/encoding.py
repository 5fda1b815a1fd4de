"""Reviews as token ids, cached on disk."""

import hashlib
import itertools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64
from tokenizers import Tokenizer

from sentiment_jax.config import DataConfig
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.tokenization import encode, tokenizer_hash
from sentiment_jax.errors import InputError


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
