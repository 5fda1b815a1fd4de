"""N-grams, whose ids stand in columns beside the id of the word that they begin with.

Bigrams and trigrams, such as "not good", may be entries of a word-level vocabulary, after its
words. The tokenizer never yields them, since words hold no spaces: they are looked up.
`hashed_ngrams` needs no vocabulary: it numbers bigrams and character n-grams by a hash, as fastText
does (Bojanowski et al., 2017, https://arxiv.org/abs/1607.04606).
"""

import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, Int64
from numpy.lib.stride_tricks import sliding_window_view
from tokenizers import Tokenizer, models

MIN_FREQUENCY = 10  # rarer n-grams are not learned
CHARACTERS = range(2, 6)  # how many of them a character n-gram has
CHARACTER_NGRAMS = 30  # of a word, at most; a longer one's are the shorter ones
Ids = Int[np.ndarray, " tokens"]
Offsets = Int64[np.ndarray, " texts_and_one"]
Lookup = tuple[Int64[np.ndarray, " ngrams"], Int64[np.ndarray, " ngrams"]]  # sorted keys, ids


def ngram_keys(token_ids: Ids, offsets: Offsets, n: int, base: int) -> Int64[np.ndarray, " tokens"]:
    """Return a key of the n words that begin at each token; -1 if the text ends or one is unknown.

    `base` is above all ids; its cube must fit 63 bits.
    """
    keys = np.full(len(token_ids), -1, np.int64)
    count = len(token_ids) - n + 1
    if count > 0:
        words = sliding_window_view(token_ids.astype(np.int64), count)  # [n, count]
        ends = np.repeat(offsets[1:], np.diff(offsets))[:count]
        inside = np.arange(n, count + n) <= ends
        known = words.min(axis=0) > 1  # [PAD] is 0, [UNK] 1
        keys[:count] = np.where(inside & known, np.polyval(words, base), -1)
    return keys


def frequent_ngrams(
    token_ids: Ids, offsets: Offsets, words: list[str], longest: int, min_frequency: int
) -> list[str]:
    """Return frequent n-grams of the `words`, 2 <= n <= `longest`, by n and falling frequency."""
    found = []
    for n in range(2, longest + 1):
        keys = ngram_keys(token_ids, offsets, n, base=len(words))
        places = np.flatnonzero(keys >= 0)
        _, first, counts = np.unique(keys[places], return_index=True, return_counts=True)
        order = np.lexsort((first, -counts))
        frequent = order[counts[order] >= min_frequency]
        starts = places[first[frequent]]
        found += [" ".join(words[i] for i in token_ids[start : start + n]) for start in starts]
    return found


def unigrams(tokenizer: Tokenizer) -> list[str]:
    """Return the entries of a vocabulary that are not n-grams of several words, in no order."""
    return [entry for entry in tokenizer.get_vocab() if " " not in entry]


@functools.lru_cache(maxsize=4)
def known_ngrams(tokenizer: Tokenizer) -> tuple[int, list[Lookup]]:
    """Return the base of a tokenizer's keys, and the keys and ids of its n-grams, n = 2, 3."""
    if not isinstance(tokenizer.model, models.WordLevel):
        return 0, []
    vocabulary = tokenizer.get_vocab()
    base = len(unigrams(tokenizer))
    lookups = []
    for spaces in range(1, 1 + max(entry.count(" ") for entry in vocabulary)):
        entries = [entry for entry in vocabulary if entry.count(" ") == spaces]
        words = np.array([[vocabulary[word] for word in entry.split(" ")] for entry in entries])
        keys = np.polyval(words.T, base)
        order = np.argsort(keys)
        ids = np.array([vocabulary[entry] for entry in entries])
        lookups.append((keys[order], ids[order]))
    return base, lookups


def with_ngrams(
    tokenizer: Tokenizer, token_ids: Int32[np.ndarray, " tokens"], offsets: Offsets
) -> Int32[np.ndarray, "tokens *columns"]:
    """Return the ids, and in further columns the ids of the n-grams that begin there; 0 for none.

    The offsets separate texts, or parts of texts: no n-gram goes across them. If the vocabulary has
    no n-grams, the ids are returned as they are.
    """
    base, lookups = known_ngrams(tokenizer)
    if not lookups:
        return token_ids
    columns = [token_ids]
    for n, (known, ids) in enumerate(lookups, start=2):
        keys = ngram_keys(token_ids, offsets, n, base)
        place = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        columns.append(np.where(known[place] == keys, ids[place], 0))
    return np.stack(columns, axis=1).astype(np.int32)


def hashed_ngrams(
    texts: Sequence[Sequence[str]], *, first: int, buckets: int
) -> Int32[np.ndarray, "words columns"]:
    """Return ids of the bigram and the character n-grams that begin at each word; 0 for none.

    `texts` are lists of words. N-grams are hashed into `buckets`, numbered from `first`.
    """
    types: dict[str, int] = {}  # each different word's number
    words = np.array([types.setdefault(w, len(types)) for text in texts for w in text], np.int64)
    inside = np.zeros((len(types), CHARACTER_NGRAMS), np.int32)
    for row, word in zip(inside, types, strict=True):
        marked = f"<{word}>"
        ends = [(i, i + n) for n in CHARACTERS for i in range(len(marked) - n + 1)]
        found = [*dict.fromkeys(marked[i:end] for i, end in ends)][:CHARACTER_NGRAMS]
        row[: len(found)] = [first + zlib.crc32(ngram.encode()) % buckets for ngram in found]
    rows = np.zeros((len(words), 1 + CHARACTER_NGRAMS), np.int32)
    rows[:, 1:] = inside[words]
    hashes = np.array([zlib.crc32(word.encode()) for word in types], np.uint32)[words]
    rows[:-1, 0] = first + (31 * hashes[:-1] + hashes[1:]) % buckets
    rows[np.cumsum([*map(len, texts)], dtype=np.int64) - 1, 0] = 0  # the last word of a text
    return rows
