"""Reviews as token ids: tokenized, cut to max_length, checked, and cached on disk."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, Int64
from tokenizers import Tokenizer

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.cache import keep_copy, read_copy
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.ngrams import with_ngrams
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import tokenizer_hash
from sentiment_jax.errors import InputError

# How many of 510 tokens come from the start of a longer text; the others come from its end.
# head_tail follows Sun et al. (2019), How to Fine-Tune BERT.
HEAD_OF_510 = {"head": 510, "tail": 0, "head_tail": 128}


WHOLE = 2**31 - 1  # tokens: a max_length that cuts no text


CHUNK = 8_000_000  # Encodings take 80 bytes a character: so many at a time bound the memory.


@dataclass(frozen=True)
class Encoded:
    """Token ids of reviews; review i is token_ids[offsets[i]:offsets[i + 1]]."""

    ids: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    token_ids: Int32[np.ndarray, "tokens *lengths"]  # two axes: see ngrams.with_ngrams
    offsets: Int64[np.ndarray, " reviews_and_one"]
    truncated: int
    targets: Float32[np.ndarray, "reviews classes"] | None = None  # in place of labels, in training

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> Int32[np.ndarray, " tokens"]:
        """The token ids without those of runs of words."""
        return self.token_ids[:, 0] if self.token_ids.ndim > 1 else self.token_ids

    @property
    def lengths(self) -> Int64[np.ndarray, " reviews"]:
        """Tokens per review, at least one."""
        return np.diff(self.offsets)


def encode(
    tokenizer: Tokenizer,
    reviews: Reviews,
    max_length: int,
    truncation: str,
    advance: Callable[[int], Any] = lambda count: None,
) -> Encoded:
    """Turn reviews into token ids, for training, prediction and explanation alike.

    The tokenizer must not cut or pad. [CLS] and [SEP] are put around a review if it has both; a
    review without any token becomes [UNK], or [CLS] [SEP]. max_length counts them; 3 is the least.
    If the vocabulary has runs of words, their ids are in columns beside the tokens'.
    `advance` hears how many more reviews are done.
    """
    before, after = framing(tokenizer)
    room = max_length - len(before) - len(after)
    empty = [] if before else [tokenizer.token_to_id("[UNK]") or 0]
    tokenizer.encode_special_tokens = True  # "[SEP]" in a review is text, not a separator.
    token_ids, offsets, truncated = array("i"), [0], 0
    head, seams = _head(room, truncation), [0]  # no run of words goes over a seam
    rows = CHUNK // max([4000, *map(len, reviews.texts)])
    for first in range(0, len(reviews), rows):
        chunk = list(reviews.texts[first : first + rows])
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            body = truncate(encoding.ids or empty, room, truncation)
            if len(encoding.ids) > room:
                seams.append(offsets[-1] + len(before) + head)
            token_ids.extend([*before, *body, *after])
            offsets.append(len(token_ids))
            seams.append(offsets[-1])
            truncated += len(encoding.ids) > room
        advance(len(chunk))
    ids, positions = np.array(token_ids, np.int32), np.array(offsets, np.int64)
    ids = with_ngrams(tokenizer, ids, np.array(seams, np.int64))
    return Encoded(reviews.ids, reviews.labels, ids, positions, truncated)


def concatenate(first: Encoded, second: Encoded) -> Encoded:
    """Return the reviews of both, one after the other."""
    labels = np.concatenate([first.labels, second.labels])
    token_ids = np.concatenate([first.token_ids, second.token_ids])
    offsets = np.concatenate([first.offsets, first.offsets[-1] + second.offsets[1:]])
    truncated = first.truncated + second.truncated
    return Encoded(first.ids + second.ids, labels, token_ids, offsets, truncated)


def framing(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids around the tokens of a review: [CLS] and [SEP], or none."""
    start, end = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    return ([], []) if start is None or end is None else ([start], [end])


def segment(tokenizer: Tokenizer, encoded: Encoded, max_length: int) -> Encoded:
    """Cut whole reviews into segments of nearly equal length, none left out; labels number them."""
    before, after = framing(tokenizer)
    room, ids, rows = max_length - len(before) - len(after), [], []
    for name, start, end in zip(encoded.ids, encoded.offsets, encoded.offsets[1:], strict=False):
        body = encoded.token_ids[start + len(before) : end - len(after)]
        for part in np.array_split(body, max(-(-len(body) // room), 1)):
            ids.append(name)
            rows.append(np.concatenate([before, part, after]) if before else part)
    offsets = np.cumsum([0, *map(len, rows)])
    numbers, token_ids = np.arange(len(rows), dtype=np.int32), np.concatenate(rows)
    return Encoded(tuple(ids), numbers, token_ids.astype(np.int32), offsets, 0)


def truncate(tokens: list[Any], room: int, truncation: str) -> list[Any]:
    """Keep the start, the end, or both, of a text's tokens or of what goes with each of them."""
    if len(tokens) <= room:
        return tokens
    head = _head(room, truncation)
    return tokens[:head] + tokens[len(tokens) - (room - head) :]


def _head(room: int, truncation: str) -> int:
    """Return how many tokens of a longer text are kept from its start."""
    return round(room * HEAD_OF_510[truncation] / 510)


def encode_corpus(
    corpus: Corpus,
    tokenizer: Tokenizer,
    data: DataConfig,
    advance: Callable[[int], Any] = lambda count: None,
) -> dict[str, Encoded]:
    """Encode each split, or read a copy of that; `advance` hears of each review done.

    The copy's key covers the texts in their order, the tokenizer, max_length and truncation.
    """
    how = f"{tokenizer_hash(tokenizer)} {data.max_length} {data.truncation}"
    splits = {}
    for split, reviews in corpus.splits.items():
        key = how.encode() + reviews.hashes.tobytes()
        if arrays := read_copy(data, key):
            arrays["truncated"] = int(arrays["truncated"])
            splits[split] = Encoded(reviews.ids, reviews.labels, **arrays)
            advance(len(reviews))
        else:
            cut = data.max_length, data.truncation
            splits[split] = encoded = encode(tokenizer, reviews, *cut, advance)
            names = ("token_ids", "offsets", "truncated")
            keep_copy(data, key, **{name: getattr(encoded, name) for name in names})
    return splits


def check_encoded(encoded: dict[str, Encoded], vocabulary_size: int, classes: int = 2) -> None:
    """Refuse ids and labels that an embedding or a loss would silently clamp or turn into NaN."""
    for split, reviews in encoded.items():
        outside = (reviews.token_ids < 0) | (reviews.token_ids >= vocabulary_size)
        if outside.any():
            wrong = f"token id {reviews.token_ids[outside][0]} of split {split} is not in"
            known = f"the model's vocabulary of {vocabulary_size}"
            raise InputError(f"{wrong} {known}: use the tokenizer of its training run")
        for name, label in zip(reviews.ids, reviews.labels.tolist(), strict=True):
            if not 0 <= label < classes:
                known = "0 or 1" if classes == 2 else f"from 0 to {classes - 1}"
                raise InputError(f"{split}, {name}: label {label} is not {known}")
