"""Truncation exact to the token, no text without one."""

import pytest
from reviews import encode_lists, learn_words

from sentiment_jax.data import tokenization
from sentiment_jax.data.encoding import encode, unknown_shares
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.tokenization import train_wordpiece

WORDS = [f"w{i:03}" for i in range(600)]


@pytest.fixture(scope="module")
def wordpiece():
    return train_wordpiece(["a good bad film", *WORDS], vocabulary_size=3000)


@pytest.fixture(scope="module")
def numbered():
    """A word-level tokenizer in which word i has id i + 2."""
    tokenizer = learn_words([" ".join(WORDS[: i + 1]) for i in range(len(WORDS))])
    assert [tokenizer.token_to_id(word) for word in WORDS] == list(range(2, 602))
    return tokenizer


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
@pytest.mark.parametrize("room", [1, 2, 15, 510])
def test_truncation_is_exact_and_leaves_cls_and_sep(numbered, wordpiece, truncation, room):
    head = {"head": room, "tail": 0, "head_tail": round(room * 128 / 510)}[truncation]
    texts = [" ".join(WORDS), " ".join(WORDS[:room]), WORDS[0]]
    for tokenizer, before, after in ((numbered, [], []), (wordpiece, [2], [3])):
        ids = [tokenizer.token_to_id(word) for word in WORDS]
        kept = ids[:head] + ids[600 - room + head :]
        expected = [[*before, *body, *after] for body in (kept, ids[:room], ids[:1])]
        options = {"max_length": room + len(before + after), "truncation": truncation}
        assert encode_lists(tokenizer, texts, **options) == (expected, 1)


@pytest.mark.parametrize("truncation", ["head", "tail"])
def test_empty_emoji_and_endless_texts_have_tokens(wordpiece, truncation):
    texts = ["", "😀", "word " * 100_000, "x" * 100_000]
    options = {"max_length": 50, "truncation": truncation}
    assert encode_lists(learn_words(["a b"]), texts, **options) == ([[1], [1], [1] * 50, [1]], 1)
    ids, truncated = encode_lists(wordpiece, texts, **options)
    assert ids[0] == [2, 3] and [len(row) for row in ids] == [2, 3, 50, 3] and truncated == 1


def test_texts_are_encoded_few_characters_at_a_time(numbered, monkeypatch):
    """Many rather long texts need bounded memory, not only a single long one."""
    texts = ["", *(" ".join(WORDS[i:]) for i in range(100)), *[""] * 1900]
    whole = [*tokenization.tokenize(numbered, texts)]
    for chunk, step in ((10_000, 2), (8_000_000, 2000)):
        monkeypatch.setattr(tokenization, "CHUNK", chunk)
        steps = []
        assert [*tokenization.tokenize(numbered, texts, steps.append)] == whole
        assert steps == [step] * (2000 // step) + [1]


def test_the_share_of_unknown_words_that_are_read(numbered, wordpiece):
    """A word of several pieces counts once; [CLS] and [SEP] do not count."""
    assert len(wordpiece.encode("bdgo", add_special_tokens=False)) > 1, "no word of several pieces"
    for tokenizer, expected in (
        (numbered, {"w001 w002": 0, "w001 what": 0.5, "это 😀": 1, "": 1}),
        (numbered, {"w001 " * 9 + "what " * 99: 0}),
        (wordpiece, {"good bdgo": 0, "good 😀 bad 😀": 0.5, "bdgo 😀": 0.5, "это": 1}),
        (wordpiece, {"": 1, "\u200b": 1, "[SEP]": 1}),  # it is text, not a separator
    ):
        encoded = encode(tokenizer, Texts.from_texts(expected), 9, "head")
        assert unknown_shares(tokenizer, encoded).tolist() == [*expected.values()]


def test_encoded_reviews_are_their_texts():
    texts = ["a film", *(f"a film number {i}" for i in range(9))]
    reviews = Texts.from_texts(texts, [i % 2 for i in range(10)])
    tokenizer = learn_words(texts[1:])
    advanced = []
    encoded = encode(tokenizer, reviews, 3, "head", advanced.append)
    assert sum(advanced) == len(encoded) == 10
    assert (encoded.labels == reviews.labels).all()
    assert encoded.lengths.tolist() == [2, *[3] * 9]
    assert encoded.token_ids.tolist() == [i for t in texts for i in tokenizer.encode(t).ids[:3]]
    assert encoded.truncated == 9
