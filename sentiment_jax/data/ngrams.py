"""N-grams, whose ids stand in columns beside the id of the word that they begin with.

Bigrams and trigrams, such as "not good", may be entries of a word-level vocabulary, after its
words. The tokenizer never yields them, since words hold no spaces: they are looked up.

A linear model's vocabulary has scikit-learn's n-grams alone, of words and of characters: a text is
a bag of them, whose ids and counts `read_ngrams` returns.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Int64
from numpy.lib.stride_tricks import sliding_window_view
from tokenizers import Tokenizer, models

MIN_FREQUENCY = 10  # rarer n-grams are not learned
KINDS = ("", "##")  # what entries of a vocabulary begin with: n-grams of words, of characters
CHARACTERS = 10_000_000  # of all texts, at most, to count n-grams of them: IMDB's take minutes
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


def count_ngrams(texts: Sequence[str]) -> list[tuple[list[str], Any]]:
    """Return n-grams of words and of characters, and how often each text has each (sparse).

    They are words and bigrams, and character n-grams within words, unless the texts have more than
    CHARACTERS; those of a kind that the texts have none of are left out.
    """
    found = []
    for kind, vectorizer in zip(KINDS, _vectorizers(), strict=True):
        if kind and sum(map(len, texts)) > CHARACTERS:
            continue
        if any(map(vectorizer.build_analyzer(), texts)):
            counts = vectorizer.fit_transform(texts)
            found.append(([kind + of for of in vectorizer.get_feature_names_out()], counts))
    return found


def _vectorizers() -> list[Any]:
    from sklearn.feature_extraction.text import CountVectorizer  # late: it takes a second

    within = CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))
    return [CountVectorizer(ngram_range=(1, 2)), within]


@functools.lru_cache(maxsize=4)
def _lookups(tokenizer: Tokenizer) -> list[tuple[Callable[[str], list[str]], dict[str, int]]]:
    """Return what finds a text's n-grams, and the ids of the known: of words, of characters.

    The latter are left out if none is known.
    """
    ids: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
    for entry, i in tokenizer.get_vocab().items():
        kind = KINDS[entry.startswith(KINDS[1])]
        ids[kind][entry.removeprefix(kind)] = i
    both = zip(_vectorizers(), ids.values(), strict=True)
    return [(vectorizer.build_analyzer(), known) for vectorizer, known in both if known]


def read_ngrams(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Return the ids of a text's known n-grams and how often each occurs, by id.

    A text without any is an [UNK], 1. If the vocabulary has no character n-grams, which tell
    something of any word, so is each different unknown word.
    """
    counts: Counter[int] = Counter()
    lookups = _lookups(tokenizer)
    for read, ids in lookups:
        counts.update(ids[ngram] for ngram in read(text) if ngram in ids)
    if counts and len(lookups) > 1:
        return sorted(counts.items())
    read_words, known = lookups[0]
    unknown = {word for word in read_words(text) if " " not in word} - known.keys()
    return [(1, 1)] * len(unknown) + sorted(counts.items()) or [(1, 1)]


def locate_ngrams(tokenizer: Tokenizer, text: str) -> list[tuple[int, list[int]]]:
    """Return the id of each known n-gram of a text, and of which of its words (text.split())."""
    (read_words, known), *of_characters = _lookups(tokenizer)
    parts = text.split()
    words = [(word, i) for i, part in enumerate(parts) for word in read_words(part)]
    words = [(word, i) for word, i in words if " " not in word]
    found = [(known.get(word), [i]) for word, i in words]
    for (word, i), (following, j) in itertools.pairwise(words):
        found.append((known.get(f"{word} {following}"), [i, j]))
    for read, ids in of_characters:
        found += [(ids.get(ngram), [i]) for i, part in enumerate(parts) for ngram in read(part)]
    return [(ngram, places) for ngram, places in found if ngram is not None]
