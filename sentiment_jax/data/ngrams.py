"""Runs of two or three words that have vectors of their own: entries "not good" of a vocabulary.

They stand in a word-level tokenizer's vocabulary behind its words. Its encoding never yields them,
since words hold no spaces: they are looked up beside each token, where they begin.
"""

import functools
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32, Int64
from tokenizers import Tokenizer

NONE = 0  # [PAD], where no known run begins
FIRST_WORD = 2  # after [PAD] and [UNK]


class Ngrams(NamedTuple):
    """The known runs of one length: sorted keys of their words' ids, and their own ids."""

    keys: Int64[np.ndarray, " runs"]
    ids: Int32[np.ndarray, " runs"]


def ngram_keys(
    token_ids: Int[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " texts_and_one"],
    length: int,
    base: int,
) -> Int64[np.ndarray, " tokens"]:
    """Return a key of the words that begin at each token; -1 where the text ends or one is unknown.

    `base` is above all ids; its cube must fit 63 bits.
    """
    keys = np.full(len(token_ids), -1, np.int64)
    count = len(token_ids) - length + 1
    if count <= 0:
        return keys
    parts = [token_ids[start : start + count].astype(np.int64) for start in range(length)]
    keys[:count] = functools.reduce(lambda key, part: key * base + part, parts)
    known = np.min(parts, axis=0) >= FIRST_WORD
    ends = np.repeat(offsets[1:], np.diff(offsets))[:count]
    keys[:count][~(known & (np.arange(length, count + length) <= ends))] = -1
    return keys


def frequent_ngrams(
    token_ids: Int[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " texts_and_one"],
    words: list[str],
    longest: int,
    min_frequency: int,
) -> list[str]:
    """Return the runs of 2 to `longest` words seen at least so often, shorter and frequent first.

    `words` are those of the ids.
    """
    found = []
    for length in range(2, longest + 1):
        keys = ngram_keys(token_ids, offsets, length, len(words))
        keys, first, counts = np.unique(keys[keys >= 0], return_index=True, return_counts=True)
        order = np.lexsort((first, -counts))
        for key in keys[order[counts[order] >= min_frequency]].tolist():
            ids = [key // len(words) ** place % len(words) for place in reversed(range(length))]
            found.append(" ".join(words[i] for i in ids))
    return found


def unigrams(tokenizer: Tokenizer) -> list[str]:
    """Return the entries of a vocabulary that are no runs, in no order."""
    return [entry for entry in tokenizer.get_vocab() if " " not in entry]


@functools.lru_cache(maxsize=4)
def known_ngrams(tokenizer: Tokenizer) -> tuple[int, dict[int, Ngrams]]:
    """Return the base of a tokenizer's keys, and by their lengths the runs in its vocabulary."""
    if tokenizer.token_to_id("[CLS]") is not None:  # not a word-level one of ours
        return 0, {}
    vocabulary, found = tokenizer.get_vocab(), defaultdict(list)
    base = len(unigrams(tokenizer))
    for entry, i in vocabulary.items():
        if " " in entry:
            ids = [vocabulary[word] for word in entry.split(" ")]
            key = functools.reduce(lambda key, part: key * base + part, ids)
            found[len(ids)].append((key, i))
    runs = {length: np.array(sorted(pairs), np.int64).T for length, pairs in found.items()}
    return base, {
        length: Ngrams(keys, ids.astype(np.int32)) for length, (keys, ids) in runs.items()
    }


def with_ngrams(
    tokenizer: Tokenizer,
    token_ids: Int32[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " texts_and_one"],
) -> Int32[np.ndarray, "tokens *lengths"]:
    """Return the ids, and beside each those of the runs that begin there, in columns; 0 for none.

    The offsets are those of texts, or of parts of texts over whose ends no run goes.

    Without runs in the vocabulary, the ids as they are.
    """
    base, known = known_ngrams(tokenizer)
    if not known:
        return token_ids
    columns = [token_ids]
    for length, runs in sorted(known.items()):  # without runs of two there are none of three
        keys = ngram_keys(token_ids, offsets, length, base)
        place = np.minimum(np.searchsorted(runs.keys, keys), len(runs.keys) - 1)
        columns.append(np.where(runs.keys[place] == keys, runs.ids[place], NONE))
    return np.stack(columns, axis=1).astype(np.int32)
