"""Texts as token ids: tokenized, truncated to max_length and checked."""

import functools
import itertools
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from tokenizers import Tokenizer

from sentiment_jax.data import tokenization
from sentiment_jax.data.ngrams import read_ngrams, with_ngrams
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import framing, unknown_id

# How many of 510 tokens come from the start of a longer text; the others come from its end.
# head_tail follows Sun et al. (2019), How to Fine-Tune BERT.
HEAD_OF_510 = {"head": 510, "tail": 0, "head_tail": 128}
WHOLE = 2**31 - 1  # a max_length that truncates no text


@dataclass(frozen=True)
class Encoded:
    """Token ids of texts; text i is token_ids[offsets[i]:offsets[i + 1]]."""

    labels: Bool[np.ndarray, "texts classes"]
    token_ids: Int32[np.ndarray, "tokens *columns"]  # two axes: ngrams.with_ngrams, or counts
    offsets: Int64[np.ndarray, " texts_and_one"]
    truncated: int
    targets: Float32[np.ndarray, "texts classes"] | None = None  # in place of labels, in training
    numbers: Int32[np.ndarray, " texts"] | None = None  # of the segments of a pre-training

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def tokens(self) -> Int32[np.ndarray, " tokens"]:
        """The token ids without what stands in further columns."""
        return self.token_ids[:, 0] if self.token_ids.ndim > 1 else self.token_ids

    @property
    def lengths(self) -> Int64[np.ndarray, " texts"]:
        """Tokens per text, at least one."""
        return np.diff(self.offsets)


def encode(
    tokenizer: Tokenizer,
    texts: Texts,
    max_length: int,
    truncation: str,
    advance: Callable[[int], Any] = lambda count: None,
) -> Encoded:
    """Turn texts into token ids, for training, prediction and explanation alike.

    The tokenizer must not truncate or pad. A text stands between [CLS] and [SEP] if the
    tokenizer has them; without any token, it becomes [UNK], or [CLS] [SEP]. max_length counts
    them and is at least 3. If the vocabulary has n-grams, their ids stand in columns beside those
    of the tokens. `advance` is called with the number of texts encoded since the last call.
    """
    before, after = framing(tokenizer)
    room = max_length - len(before) - len(after)
    empty = [] if before else [unknown_id(tokenizer) or 0]
    ids = array("i")
    offsets = [0]
    cuts = []  # where the head of a truncated text ends
    for body in tokenization.tokenize(tokenizer, texts.texts, advance):
        if len(body) > room:
            cuts.append(len(ids) + len(before) + head_size(room, truncation))
        ids.extend([*before, *truncate(body or empty, room, truncation), *after])
        offsets.append(len(ids))
    bounds = np.sort(np.array(offsets + cuts, np.int64))  # no n-gram goes across one
    return Encoded(
        labels=texts.labels,
        token_ids=with_ngrams(tokenizer, np.array(ids, np.int32), bounds),
        offsets=np.array(offsets, np.int64),
        truncated=len(cuts),
    )


def encode_ngrams(
    tokenizer: Tokenizer, texts: Texts, advance: Callable[[int], Any] = lambda count: None
) -> Encoded:
    """Turn texts into the ids of a linear model's n-grams and, in a second column, their counts.

    No text is truncated. `advance` is that of `encode`.
    """
    ids = array("i")
    offsets = [0]
    for text in texts.texts:
        ids.extend(itertools.chain.from_iterable(read_ngrams(tokenizer, text)))
        offsets.append(len(ids) // 2)
        advance(1)
    token_ids = np.array(ids, np.int32).reshape(-1, 2)
    return Encoded(texts.labels, token_ids, np.array(offsets, np.int64), truncated=0)


def truncate(tokens: list[Any], room: int, truncation: str) -> list[Any]:
    """Keep the start, the end, or both of a text's tokens, or of other values for each token."""
    if len(tokens) <= room:
        return tokens
    head = head_size(room, truncation)
    return tokens[:head] + tokens[len(tokens) - (room - head) :]


def head_size(room: int, truncation: str) -> int:
    """Return how many of `room` tokens are a longer text's first."""
    return round(room * HEAD_OF_510[truncation] / 510)


def unknown_shares(tokenizer: Tokenizer, encoded: Encoded) -> Float64[np.ndarray, " texts"]:
    """Return the share of [UNK] among the encoded words of each text; 1 if it has no words."""
    of_each = functools.partial(np.add.reduceat, indices=encoded.offsets[:-1], dtype=np.int64)
    words = of_each(~np.isin(encoded.tokens, _not_words(tokenizer)))
    unknown = of_each(encoded.tokens == unknown_id(tokenizer))
    blank = encoded.lengths == sum(map(len, framing(tokenizer)))
    # a unigram model may have several unknown pieces in a word
    return np.where(blank, 1, np.minimum(unknown / np.maximum(words, 1), 1))


@functools.lru_cache(maxsize=4)
def _not_words(tokenizer: Tokenizer) -> Int64[np.ndarray, " ids"]:
    """Return the ids of [CLS], [SEP] and of what is no word, or not the beginning of one."""
    before, after = framing(tokenizer)
    entries = tokenizer.get_vocab().items()
    ngrams = [i for entry, i in entries if " " in entry]  # of several words, or of characters
    inside = [i for entry, i in entries if tokenization.continues_word(tokenizer, entry)]
    return np.array([*before, *after, *inside, *ngrams], np.int64)
