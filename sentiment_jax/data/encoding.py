"""Reviews as token ids: tokenized, truncated to max_length, checked, and cached on disk."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int32, Int64
from tokenizers import Tokenizer

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.cache import read_cached, write_cached
from sentiment_jax.data.ngrams import with_ngrams
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import tokenizer_hash
from sentiment_jax.errors import InputError

# How many of 510 tokens come from the start of a longer text; the others come from its end.
# head_tail follows Sun et al. (2019), How to Fine-Tune BERT.
HEAD_OF_510 = {"head": 510, "tail": 0, "head_tail": 128}
WHOLE = 2**31 - 1  # a max_length that truncates no text
CHUNK = 8_000_000  # characters tokenized at once: encodings take 80 bytes each
Token = TypeVar("Token")


@dataclass(frozen=True)
class Encoded:
    """Token ids of reviews; review i is token_ids[offsets[i]:offsets[i + 1]]."""

    ids: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    token_ids: Int32[np.ndarray, "tokens *columns"]  # two axes: see ngrams.with_ngrams
    offsets: Int64[np.ndarray, " reviews_and_one"]
    truncated: int
    targets: Float32[np.ndarray, "reviews classes"] | None = None  # in place of labels, in training

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tokens(self) -> Int32[np.ndarray, " tokens"]:
        """The token ids without the n-gram ids."""
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

    The tokenizer must not truncate or pad. A review stands between [CLS] and [SEP] if the
    vocabulary has both; without any token, it becomes [UNK], or [CLS] [SEP]. max_length counts
    them and is at least 3. If the vocabulary has n-grams, their ids stand in columns beside those
    of the tokens. `advance` is called with the number of reviews encoded since the last call.
    """
    before, after = framing(tokenizer)
    room = max_length - len(before) - len(after)
    empty = [] if before else [tokenizer.token_to_id("[UNK]") or 0]
    tokenizer.encode_special_tokens = True  # "[SEP]" in a review is text, not a separator.
    token_ids = array("i")
    offsets = [0]
    seams = [0]  # no n-gram goes across: where reviews begin, and where one was cut in the middle
    rows = CHUNK // max([4000, *map(len, reviews.texts)])
    for first in range(0, len(reviews), rows):
        chunk = list(reviews.texts[first : first + rows])
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            body = encoding.ids or empty
            if len(body) > room:
                seams.append(offsets[-1] + len(before) + _head(room, truncation))
            token_ids.extend([*before, *truncate(body, room, truncation), *after])
            offsets.append(len(token_ids))
            seams.append(offsets[-1])
        advance(len(chunk))
    ids = np.array(token_ids, np.int32)
    return Encoded(
        ids=reviews.ids,
        labels=reviews.labels,
        token_ids=with_ngrams(tokenizer, ids, np.array(seams, np.int64)),
        offsets=np.array(offsets, np.int64),
        truncated=len(seams) - len(offsets),  # each has a seam more
    )


def framing(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids around the tokens of a review: [CLS] and [SEP], or none."""
    start = tokenizer.token_to_id("[CLS]")
    end = tokenizer.token_to_id("[SEP]")
    return ([], []) if start is None or end is None else ([start], [end])


def truncate(tokens: list[Token], room: int, truncation: str) -> list[Token]:
    """Keep the start, the end, or both, of a text's tokens or of what belongs to each of them."""
    if len(tokens) <= room:
        return tokens
    head = _head(room, truncation)
    return tokens[:head] + tokens[len(tokens) - (room - head) :]


def _head(room: int, truncation: str) -> int:
    return round(room * HEAD_OF_510[truncation] / 510)


def encode_splits(
    splits: dict[str, Reviews],
    tokenizer: Tokenizer,
    data: DataConfig,
    advance: Callable[[int], Any] = lambda count: None,
) -> dict[str, Encoded]:
    """Encode each split, or read it from the cache; `advance` is that of `encode`.

    InputError: the tokenizer gives ids beyond its vocabulary.
    """
    settings = f"{tokenizer_hash(tokenizer)} {data.max_length} {data.truncation}".encode()
    found = {}
    for split, reviews in splits.items():
        key = settings + reviews.hashes.tobytes()
        if arrays := read_cached(key):
            truncated = int(arrays.pop("truncated"))
            found[split] = Encoded(reviews.ids, reviews.labels, **arrays, truncated=truncated)
            advance(len(reviews))
            continue
        encoded = encode(tokenizer, reviews, data.max_length, data.truncation, advance)
        found[split] = encoded
        arrays = {name: getattr(encoded, name) for name in ("token_ids", "offsets", "truncated")}
        write_cached(key, **arrays)
    check_encoded(found, tokenizer.get_vocab_size())
    return found


def check_encoded(encoded: dict[str, Encoded], vocabulary_size: int) -> None:
    """Refuse token ids that an embedding would silently clamp."""
    for split, reviews in encoded.items():
        largest = reviews.token_ids.max(initial=0)
        if largest >= vocabulary_size:
            raise InputError(
                f"token id {largest} of split {split} is not in the model's "
                f"vocabulary of {vocabulary_size}: use the tokenizer of its training run"
            )
