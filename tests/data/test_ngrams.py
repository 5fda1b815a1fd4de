"""Runs of words in a vocabulary: which are learned, and where a text has them."""

from collections import Counter

import numpy as np
import pytest
from tokenizers import Tokenizer

from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.data.encoding import encode, segment
from sentiment_jax.data.legibility import foreign_scripts, unknown_shares
from sentiment_jax.data.ngrams import frequent_ngrams, ngram_keys
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level

TEXTS = ["not a good film", "not a good day, not a film", "a good day", "film not", "rare"] * 3


def learn(ngrams=3, ngram_frequency=6, **settings):
    return train_word_level(TEXTS, 1000, 4, ngrams, ngram_frequency, **settings)


def counted(longest, least):
    """The runs of known words by a plain loop."""
    often = Counter(" ".join(TEXTS).replace(",", " ,").split())
    known = {word for word, count in often.items() if count >= 4}
    found = Counter()
    for text in TEXTS:
        words = text.replace(",", " ,").split()
        for length in range(2, longest + 1):
            for start in range(len(words) - length + 1):
                run = words[start : start + length]
                if known.issuperset(run):
                    found[" ".join(run)] += 1
    return {run: count for run, count in found.items() if count >= least}


@pytest.mark.parametrize(("ngrams", "frequency"), [(2, 1), (3, 1), (3, 6), (3, 7)])
def test_frequent_runs_stand_behind_the_words(ngrams, frequency):
    words, tokenizer = learn(ngrams=1), learn(ngrams, frequency)
    vocabulary, plain = tokenizer.get_vocab(), words.get_vocab()
    assert {word: vocabulary[word] for word in plain} == plain
    runs = [entry for entry in sorted(vocabulary, key=vocabulary.get) if entry not in plain]
    expected = counted(ngrams, frequency)
    assert {*runs} == {*expected}
    order = [(run.count(" "), -expected[run]) for run in runs]
    assert order == sorted(order)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert tokenizer.encode(TEXTS[1]).tokens == words.encode(TEXTS[1]).tokens


def test_ids_stand_beside_the_word_where_a_run_begins():
    tokenizer = learn()
    vocabulary = tokenizer.get_vocab()
    texts = Reviews.from_texts(["a good film", "not a rare good day", "Not A Good", "?"])
    encoded = encode(tokenizer, texts, max_length=99, truncation="head")
    tokens = [tokenizer.id_to_token(i) for i in encoded.tokens]
    assert tokens == ["a", "good", "film", "not", "a", "[UNK]", "good", "day"] + [
        *("not", "a", "good", "[UNK]")
    ]
    runs = ["a good", "", "", "not a", "", "", "good day", "", "not a", "a good", "", ""]
    assert encoded.token_ids[:, 1].tolist() == [vocabulary.get(run, 0) for run in runs]
    assert {*encoded.token_ids[:, 2]} == {0, vocabulary["not a good"]}
    assert encoded.token_ids[8, 2] == vocabulary["not a good"]
    np.testing.assert_array_equal(encoded.lengths, [3, 5, 3, 1])
    np.testing.assert_allclose(unknown_shares(tokenizer, encoded), [0, 0.2, 0, 1])


def test_runs_end_where_a_text_is_cut():
    tokenizer = learn()
    reviews = Reviews.from_texts(["not a good film"])
    cut = encode(tokenizer, reviews, max_length=3, truncation="head").token_ids
    alone = encode(tokenizer, Reviews.from_texts(["not a good"]), max_length=9, truncation="head")
    np.testing.assert_array_equal(cut, alone.token_ids)
    # Of nine tokens, the first two and the last six: between them no run of words.
    text = ["film", "not", "a", "good", "film", "a", "a", "a", "good"]
    both = encode(tokenizer, Reviews.from_texts([" ".join(text)]), 8, "head_tail").token_ids
    kept = [text[:2], text[3:]]
    assert [tokenizer.id_to_token(i) for i in both[:, 0]] == [*kept[0], *kept[1]]
    parts = [encode(tokenizer, Reviews.from_texts([" ".join(p)]), 99, "head") for p in kept]
    np.testing.assert_array_equal(both, np.concatenate([part.token_ids for part in parts]))


@pytest.mark.parametrize("texts", [[], [""], ["", "a", ""], ["rare rare"]])
def test_texts_of_few_words_have_no_runs(texts):
    encoded = encode(learn(), Reviews.from_texts(texts), max_length=9, truncation="head")
    assert encoded.token_ids.shape == (len(encoded.tokens), 3)
    assert not encoded.token_ids[:, 1:].any()
    plain = encode(learn(3, 999), Reviews.from_texts(["not a"]), max_length=9, truncation="head")
    assert plain.token_ids.shape == (2,)


def test_runs_make_no_script_foreign():
    texts = ["a good film"] * 300 + ["хорош плохо"] * 5
    for ngrams in (1, 3):
        tokenizer = train_word_level(texts, 1000, 2, ngrams, 10)
        assert foreign_scripts(tokenizer, ["хорош плохо", "好好好好"]) == ["", "CJK"]


def test_batches_and_segments_keep_the_columns():
    tokenizer = learn()
    encoded = encode(tokenizer, Reviews.from_texts(TEXTS[:2]), max_length=99, truncation="head")
    batch = make_batch(encoded, PlannedBatch(np.array([1, 0]), 10), 3)["token_ids"]
    assert batch.shape == (3, 10, 3)
    np.testing.assert_array_equal(batch[1, :4], encoded.token_ids[:4])
    assert not batch[1, 4:].any() and not batch[2].any()
    parts = segment(tokenizer, encoded, 3)
    np.testing.assert_array_equal(parts.token_ids, encoded.token_ids)
    assert parts.lengths.max() <= 3


def test_a_stored_vocabulary_finds_the_same(tmp_path):
    tokenizer = learn()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = [
        encode(one, Reviews.from_texts(TEXTS), max_length=99, truncation="head").token_ids
        for one in (tokenizer, again)
    ]
    np.testing.assert_array_equal(*ids)


def test_keys_of_large_vocabularies_do_not_overflow():
    base, offsets = 10**6, np.array([0, 3])
    ids = np.array([base - 1, base - 2, base - 3])
    key = ngram_keys(ids, offsets, 3, base)[0]
    assert key == ((base - 1) * base + base - 2) * base + base - 3
    assert ngram_keys(ids[:1], np.array([0, 1]), 2, base).tolist() == [-1]


def test_no_run_crosses_from_text_to_text():
    words = ["[PAD]", "[UNK]", "a", "b"]
    ids, offsets = np.array([2, 3, 2, 3, 1, 3]), np.array([0, 1, 4, 6])
    assert frequent_ngrams(ids, offsets, words, 3, 1) == ["b a", "a b", "b a b"]
