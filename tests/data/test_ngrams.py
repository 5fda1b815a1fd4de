"""N-grams in a vocabulary: which are learned, and where a text has them."""

import zlib
from collections import Counter

import numpy as np
import pytest
from reviews import learn_words
from tokenizers import Tokenizer

from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.encoding import encode, unknown_shares
from sentiment_jax.data.ngrams import CHARACTER_NGRAMS, hashed_ngrams, ngram_keys
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.training.tasks.pretraining import segment

TEXTS = ["not a good film", "not a good day, not a film", "a good day", "film not", "rare"] * 3


def learn(ngrams=3, frequency=6):
    return learn_words(TEXTS, min_frequency=4, ngrams=ngrams, ngram_frequency=frequency)


def encode_texts(tokenizer, *texts, max_length=99, truncation="head"):
    return encode(tokenizer, Reviews.from_texts(texts), max_length, truncation)


def count_ngrams(longest, least):
    """The n-grams of known words by a plain loop."""
    texts = [text.replace(",", " ,").split() for text in TEXTS]
    known = {word for word, count in Counter(sum(texts, [])).items() if count >= 4}
    found = Counter()
    for words in texts:
        for n in range(2, longest + 1):
            ngrams = [words[start : start + n] for start in range(len(words) - n + 1)]
            found.update(" ".join(ngram) for ngram in ngrams if known.issuperset(ngram))
    return {ngram: count for ngram, count in found.items() if count >= least}


@pytest.mark.parametrize(("ngrams", "frequency"), [(2, 1), (3, 1), (3, 6), (3, 7)])
def test_frequent_ngrams_follow_the_words(ngrams, frequency):
    words = learn(ngrams=1)
    tokenizer = learn(ngrams, frequency)
    vocabulary = tokenizer.get_vocab()
    entries = sorted(vocabulary, key=vocabulary.get)
    plain = words.get_vocab()
    assert entries[: len(plain)] == sorted(plain, key=plain.get)
    expected = count_ngrams(ngrams, frequency)
    found = entries[len(plain) :]
    assert sorted(found) == sorted(expected)
    order = [(ngram.count(" "), -expected[ngram]) for ngram in found]
    assert order == sorted(order)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert tokenizer.encode(TEXTS[1]).tokens == words.encode(TEXTS[1]).tokens


def test_ids_stand_beside_the_word_that_an_ngram_begins_with(tmp_path):
    columns = [
        ["a", "good", "film", "not", "a", "[UNK]", "good", "day", "not", "a", "good", "[UNK]"],
        ["a good", "", "", "not a", "", "", "good day", "", "not a", "a good", "", ""],
        [""] * 8 + ["not a good", "", "", ""],
    ]
    learn().save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (learn(), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))):
        encoded = encode_texts(tokenizer, "a good film", "not a rare good day", "Not A Good", "?")
        ids = [[tokenizer.token_to_id(entry) or 0 for entry in column] for column in columns]
        assert encoded.token_ids.T.tolist() == ids
        np.testing.assert_array_equal(encoded.lengths, [3, 5, 3, 1])
        np.testing.assert_allclose(unknown_shares(tokenizer, encoded), [0, 0.2, 0, 1])


def test_ngrams_end_where_a_text_is_cut():
    tokenizer = learn()
    cut = encode_texts(tokenizer, "not a good film", max_length=3).token_ids
    np.testing.assert_array_equal(cut, encode_texts(tokenizer, "not a good").token_ids)
    # Of nine tokens, the first two and the last six: "not a" between them is no bigram.
    text = ["film", "not", "film", "a", "film", "a", "a", "a", "good"]
    both = encode_texts(tokenizer, " ".join(text), max_length=8, truncation="head_tail").token_ids
    parts = encode_texts(tokenizer, " ".join(text[:2]), " ".join(text[3:])).token_ids
    np.testing.assert_array_equal(both, parts)


def test_texts_of_few_words_have_no_ngrams():
    for texts in ([], [""], ["", "a", ""], ["rare rare"]):
        encoded = encode_texts(learn(), *texts)
        assert encoded.token_ids.shape == (len(encoded.tokens), 3)
        assert not encoded.token_ids[:, 1:].any()
    assert encode_texts(learn(frequency=999), "not a").token_ids.shape == (2,)


def test_batches_and_segments_keep_the_columns():
    tokenizer = learn()
    encoded = encode_texts(tokenizer, *TEXTS[:2])
    batch = make_batch(encoded, PlannedBatch(np.array([1, 0]), 10), 3)["token_ids"]
    assert batch.shape == (3, 10, 3)
    np.testing.assert_array_equal(batch[1, :4], encoded.token_ids[:4])
    assert not batch[1, 4:].any() and not batch[2].any()
    parts = segment(tokenizer, encoded, 3)
    np.testing.assert_array_equal(parts.token_ids, encoded.token_ids)
    assert parts.lengths.max() <= 3


def test_keys_of_large_vocabularies_do_not_overflow():
    base = 10**6
    ids = np.array([base - 1, base - 2, base - 3])
    key = ngram_keys(ids, np.array([0, 3]), 3, base)[0]
    assert key == ((base - 1) * base + base - 2) * base + base - 3
    assert ngram_keys(ids[:1], np.array([0, 1]), 2, base).tolist() == [-1]


def test_hashed_ngrams_are_bigrams_and_character_ngrams_at_each_word():
    texts = [["not", "good"], ["so", "not", "so"], ["abcdefghijklmnop"]]
    pairs = [pair for words in texts for pair in zip(words, [*words[1:], None], strict=True)]
    rows = hashed_ngrams(texts, first=100, buckets=7)
    assert rows.shape == (6, 1 + CHARACTER_NGRAMS)
    for row, (word, after) in zip(rows.tolist(), pairs, strict=True):
        pair = (31 * zlib.crc32(word.encode()) + zlib.crc32((after or "").encode())) % 2**32
        marked = f"<{word}>"
        found = [marked[i : i + n] for n in (2, 3, 4, 5) for i in range(len(marked) - n + 1)]
        ids = [100 + zlib.crc32(ngram.encode()) % 7 for ngram in found][:CHARACTER_NGRAMS]
        ids += [0] * (CHARACTER_NGRAMS - len(ids))
        assert row == [100 + pair % 7 if after else 0, *ids]
    assert hashed_ngrams([["aaaaaa"]], first=1, buckets=9)[0].astype(bool).sum() == 12  # each once


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_hashed_ngrams_stand_beside_their_word_also_if_it_is_unknown_or_cut(truncation):
    tokenizer = learn_words(["Good days", "good films"], min_frequency=2)
    text = "GOOD unheard-of films, good film"
    encoded = encode(tokenizer, Reviews.from_texts([text, " "]), 4, truncation, ngram_buckets=50)
    words = ["good", "unheard", "-", "of", "films", ",", "good", "film"]
    kept = {"head": words[:4], "tail": words[4:], "head_tail": [words[0], *words[5:]]}[truncation]
    size = tokenizer.get_vocab_size()
    assert encoded.tokens.tolist() == [*(tokenizer.token_to_id(w) or 1 for w in kept), 1]
    expected = hashed_ngrams([kept, [""]], first=size, buckets=50)
    np.testing.assert_array_equal(encoded.token_ids[:, 1:], expected)
    assert encoded.token_ids.max() < size + 50
