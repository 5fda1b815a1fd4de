"""Warnings about texts that a vocabulary cannot represent: unknown words and foreign scripts.

Predictions for such texts mean little. Training does not need this module.
"""

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
    """Return the share of [UNK] among the encoded words of each review; 1 if it has no words."""
    starts = encoded.offsets[:-1]
    is_word = ~np.isin(encoded.tokens, _not_words(tokenizer))
    is_unknown = encoded.tokens == (tokenizer.token_to_id("[UNK]") or 0)
    words = np.add.reduceat(is_word, starts, dtype=np.int64)
    unknown = np.add.reduceat(is_unknown, starts, dtype=np.int64)
    return np.where(words == 0, 1, unknown / np.maximum(words, 1))


@functools.lru_cache(maxsize=4)
def _not_words(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of [CLS], [SEP] and of pieces that continue a word."""
    entries = tokenizer.get_vocab().items()
    return [i for entry, i in entries if entry in ("[CLS]", "[SEP]") or entry.startswith("##")]


@functools.cache
def _script(character: str) -> str:
    """Return a letter's script, the first word of its name, or "" for any other character."""
    return unicodedata.name(character, "unnamed").split()[0] if character.isalpha() else ""


def _count_scripts(text: str) -> Counter[str]:
    return Counter(filter(None, map(_script, text)))


@functools.lru_cache(maxsize=4)
def _own_scripts(tokenizer: Tokenizer) -> set[str]:
    """Return the scripts that make up 1 in 200 letters of a vocabulary's words."""
    letters = _count_scripts("".join(w for w in unigrams(tokenizer) if not w.startswith("[")))
    return {script for script, count in letters.items() if count > letters.total() / 200}


def foreign_scripts(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """Return the main script of each text whose letters are mostly foreign to the vocabulary.

    It is "" for the other texts. BERT's English vocabulary has the letters of many scripts, but no
    words in them: such a text becomes single letters, none of them unknown. A script is foreign if
    it makes up less than 1 in 200 letters of the vocabulary: 1 in 120 of BERT's are not Latin, 1 in
    350 Chinese, 1 in 1,700 Cyrillic. Of a text, only the first thousand characters are examined.
    """
    own = _own_scripts(tokenizer)
    found = []
    for text in texts:
        letters = _count_scripts(text[:1000])
        foreign = Counter({name: count for name, count in letters.items() if name not in own})
        mostly = 2 * foreign.total() > letters.total()
        name = foreign.most_common(1)[0][0] if mostly else ""
        found.append(name if name == "CJK" else name.title())
    return found
