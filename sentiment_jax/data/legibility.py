"""TODO data.legibility."""

import functools
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from tokenizers import Tokenizer

from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.ngrams import unigrams


def unknown_shares(tokenizer: Tokenizer, encoded: Encoded) -> Float64[np.ndarray, " reviews"]:
    """Return the share of [UNK] among the words that are left of each review; without any, 1."""
    ids, starts = encoded.tokens, encoded.offsets[:-1]
    others, unknown_id = _no_words(tokenizer), tokenizer.token_to_id("[UNK]") or 0
    words = np.add.reduceat(~np.isin(ids, others), starts, dtype=np.int64)
    unknown = np.add.reduceat(ids == unknown_id, starts, dtype=np.int64)
    return np.where(words == 0, 1, unknown / np.maximum(words, 1))


@functools.lru_cache(maxsize=4)
def _no_words(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of [CLS], [SEP] and of pieces that go on with a word."""
    entries, framing = tokenizer.get_vocab().items(), ("[CLS]", "[SEP]")
    return [i for token, i in entries if token in framing or token.startswith("##")]


@functools.cache
def _script(character: str) -> str:
    """Return a letter's script, the first word of its name, or "" for any other character."""
    return character.isalpha() * unicodedata.name(character, "unnamed").split()[0]


def _scripts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        counts[_script(character)] += count
    del counts[""]
    return counts


@functools.lru_cache(maxsize=4)
def _own_scripts(tokenizer: Tokenizer) -> set[str]:
    """Return the scripts that make up 1 in 200 letters of a vocabulary; runs of words apart."""
    entries = unigrams(tokenizer)
    letters = _scripts("".join(entry for entry in entries if not entry.startswith("[")))
    return {name for name, count in letters.items() if count > letters.total() / 200}


def foreign_scripts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the script of each text that is mostly in ones foreign to the vocabulary, or else "".

    BERT's English vocabulary knows the letters of many scripts, but no word in them: a text becomes
    single letters, none of them unknown. Foreign is what makes up less than 1 in 200 of all letters
    in the vocabulary: 1 in 120 of BERT's are not Latin, 1 in 350 Chinese, 1 in 1,700 Cyrillic. The
    first thousand characters stand for a text.
    """
    own, found = _own_scripts(tokenizer), []
    for text in texts:
        letters = _scripts("" if text.isascii() and "LATIN" in own else text[:1000])
        foreign = Counter({name: count for name, count in letters.items() if name not in own})
        mostly = 2 * foreign.total() > letters.total()
        name = foreign.most_common(1)[0][0] if mostly else ""
        found.append(name if name == "CJK" else name.title())
    return found
