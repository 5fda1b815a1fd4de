"""N-grams in a vocabulary: which are learned, and where a text has them."""

from collections import Counter

import numpy as np
import pytest
from reviews import learn_words
from tokenizers import Tokenizer

from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.encoding import encode, unknown_shares
from sentiment_jax.data.ngrams import locate_ngrams, ngram_keys, read_ngrams
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_ngrams
from sentiment_jax.training.tasks.pretraining import segment

TEXTS = ["not a good film", "not a good day, not a film", "a good day", "film not", "rare"] * 3


def learn(ngrams=3, frequency=6):
    return learn_words(TEXTS, min_frequency=4, ngrams=ngrams, ngram_frequency=frequency)


def encode_texts(tokenizer, *texts, max_length=99, truncation="head"):
    return encode(tokenizer, Texts.from_texts(texts), max_length, truncation)


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


@pytest.mark.parametrize("text", ["Good, GOOD film's day", "a bc-de  bc", "ΟΔΟΣ οδος İx", ""])
def test_a_linear_models_ngrams_are_found_where_they_are_counted(text):
    tokenizer = train_ngrams([text or "word", "good film day"])
    (text,) = Texts.from_texts([text]).texts
    found = [pair for pair in read_ngrams(tokenizer, text) if pair[0] != 1]
    located = locate_ngrams(tokenizer, text)
    assert dict(found) == Counter(i for i, _ in located)
    assert all(places for _, places in located)
    assert bool(found) == bool(text) or read_ngrams(tokenizer, text) == [(1, 1)]
