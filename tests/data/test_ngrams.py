"""N-grams in a vocabulary: which are learned, and where a text has them."""

from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer

from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.ngrams import ngram_keys
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.modes.predict import unknown_shares
from sentiment_jax.modes.pretrain import segment

TEXTS = ["not a good film", "not a good day, not a film", "a good day", "film not", "rare"] * 3


def learn(ngrams=3, ngram_frequency=6):
    return train_word_level(TEXTS, 1000, 4, ngrams, ngram_frequency)


def encode_texts(tokenizer, *texts, max_length=99, truncation="head"):
    return encode(tokenizer, Reviews.from_texts(texts), max_length, truncation)


def count_ngrams(longest, least):
    """The n-grams of known words by a plain loop."""
    counts = Counter(" ".join(TEXTS).replace(",", " ,").split())
    known = {word for word, count in counts.items() if count >= 4}
    found = Counter()
    for text in TEXTS:
        words = text.replace(",", " ,").split()
        for n in range(2, longest + 1):
            ngrams = [words[start : start + n] for start in range(len(words) - n + 1)]
            found.update(" ".join(ngram) for ngram in ngrams if known.issuperset(ngram))
    return {ngram: count for ngram, count in found.items() if count >= least}


@pytest.mark.parametrize(("ngrams", "frequency"), [(2, 1), (3, 1), (3, 6), (3, 7)])
def test_frequent_ngrams_follow_the_words(ngrams, frequency):
    words = learn(ngrams=1)
    tokenizer = learn(ngrams, frequency)
    vocabulary = tokenizer.get_vocab()
    plain = words.get_vocab()
    assert {word: vocabulary[word] for word in plain} == plain
    found = [entry for entry in sorted(vocabulary, key=vocabulary.get) if entry not in plain]
    expected = count_ngrams(ngrams, frequency)
    assert {*found} == {*expected}
    order = [(ngram.count(" "), -expected[ngram]) for ngram in found]
    assert order == sorted(order)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert tokenizer.encode(TEXTS[1]).tokens == words.encode(TEXTS[1]).tokens


def test_ids_stand_beside_the_word_that_an_ngram_begins_with(tmp_path):
    learn().save(str(tmp_path / "tokenizer.json"))
    for tokenizer in (learn(), Tokenizer.from_file(str(tmp_path / "tokenizer.json"))):
        vocabulary = tokenizer.get_vocab()
        encoded = encode_texts(tokenizer, "a good film", "not a rare good day", "Not A Good", "?")
        tokens = [tokenizer.id_to_token(i) for i in encoded.tokens]
        assert tokens[:8] == ["a", "good", "film", "not", "a", "[UNK]", "good", "day"]
        assert tokens[8:] == ["not", "a", "good", "[UNK]"]
        bigrams = ["a good", "", "", "not a", "", "", "good day", "", "not a", "a good", "", ""]
        assert encoded.token_ids[:, 1].tolist() == [vocabulary.get(pair, 0) for pair in bigrams]
        assert {*encoded.token_ids[:, 2]} == {0, vocabulary["not a good"]}
        assert encoded.token_ids[8, 2] == vocabulary["not a good"]
        np.testing.assert_array_equal(encoded.lengths, [3, 5, 3, 1])
        np.testing.assert_allclose(unknown_shares(tokenizer, encoded), [0, 0.2, 0, 1])


def test_ngrams_end_where_a_text_is_cut():
    tokenizer = learn()
    cut = encode_texts(tokenizer, "not a good film", max_length=3).token_ids
    np.testing.assert_array_equal(cut, encode_texts(tokenizer, "not a good").token_ids)
    # Of nine tokens, the first two and the last six: no n-gram between them.
    text = ["film", "not", "a", "good", "film", "a", "a", "a", "good"]
    both = encode_texts(tokenizer, " ".join(text), max_length=8, truncation="head_tail").token_ids
    parts = [encode_texts(tokenizer, " ".join(part)).token_ids for part in (text[:2], text[3:])]
    np.testing.assert_array_equal(both, np.concatenate(parts))


@pytest.mark.parametrize("texts", [[], [""], ["", "a", ""], ["rare rare"]])
def test_texts_of_few_words_have_no_ngrams(texts):
    encoded = encode_texts(learn(), *texts)
    assert encoded.token_ids.shape == (len(encoded.tokens), 3)
    assert not encoded.token_ids[:, 1:].any()
    assert encode_texts(learn(3, 999), "not a").token_ids.shape == (2,)


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
    offsets = np.array([0, 3])
    ids = np.array([base - 1, base - 2, base - 3])
    key = ngram_keys(ids, offsets, 3, base)[0]
    assert key == ((base - 1) * base + base - 2) * base + base - 3
    assert ngram_keys(ids[:1], np.array([0, 1]), 2, base).tolist() == [-1]
