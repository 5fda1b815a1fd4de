"""Truncation exact to the token, no review without one."""

import pytest
from reviews import encode_lists
from tokenizers import Tokenizer, models

from sentiment_jax.data import tokenization
from sentiment_jax.data.encoding import encode
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level, train_wordpiece
from sentiment_jax.errors import InputError
from sentiment_jax.modes.predict import foreign_scripts, unknown_shares

WORDS = [f"w{i:03}" for i in range(600)]


def word_level(texts):
    return train_word_level(texts, vocabulary_size=1000, min_frequency=1)


@pytest.fixture(scope="module")
def wordpiece():
    return train_wordpiece(["a good bad film"], vocabulary_size=200)


@pytest.fixture
def numbered():
    """A word-level tokenizer in which word i has id i + 2."""
    counted = [" ".join(WORDS[: i + 1]) for i in range(len(WORDS))]
    tokenizer = word_level(counted)
    assert [tokenizer.token_to_id(word) for word in WORDS] == list(range(2, 602))
    return tokenizer


@pytest.mark.parametrize(
    ("truncation", "kept"),
    [
        ("head", range(0, 510)),
        ("tail", range(90, 600)),
        ("head_tail", [*range(0, 128), *range(218, 600)]),
    ],
)
def test_truncation_is_exact_without_special_tokens(numbered, truncation, kept):
    texts = [" ".join(WORDS), " ".join(WORDS[:510]), WORDS[7]]
    ids, truncated = encode_lists(numbered, texts, max_length=510, truncation=truncation)
    assert ids == [[i + 2 for i in kept], list(range(2, 512)), [9]]
    assert truncated == 1


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
@pytest.mark.parametrize("max_length", [3, 4, 17, 512])
def test_cls_and_sep_survive_and_max_length_is_honored_exactly(wordpiece, truncation, max_length):
    body = wordpiece.encode("good bad film " * 300, add_special_tokens=False).ids
    ids, truncated = encode_lists(
        wordpiece, ["good bad film " * 300, "good"], max_length=max_length, truncation=truncation
    )
    assert len(ids[0]) == max_length and truncated == 1
    assert ids[0][0] == ids[1][0] == 2 and ids[0][-1] == ids[1][-1] == 3
    room = max_length - 2
    head = {"head": room, "tail": 0, "head_tail": round(room * 128 / 510)}[truncation]
    assert ids[0][1:-1] == body[:head] + body[len(body) - room + head :]


def test_empty_emoji_and_endless_texts_have_tokens(wordpiece):
    texts = ["", "😀", "word " * 100_000, "x" * 100_000]
    ids, truncated = encode_lists(word_level(["a b"]), texts, max_length=50)
    assert [len(row) for row in ids] == [1, 1, 50, 1] and truncated == 1
    assert ids[0] == ids[1] == [1]
    ids, truncated = encode_lists(wordpiece, texts, max_length=50, truncation="tail")
    assert ids[0] == [2, 3] and [len(row) for row in ids] == [2, 3, 50, 3] and truncated == 1


def test_special_tokens_in_a_review_are_text(wordpiece):
    ids, _ = encode_lists(wordpiece, ["good [SEP] [PAD] [CLS] film"])
    assert not {0, 2, 3} & set(ids[0][1:-1])


def test_texts_are_encoded_few_characters_at_a_time(numbered, monkeypatch):
    """Row 56: not only one long text, but many rather long ones, too, need bounded memory."""
    texts = ["", *(" ".join(WORDS[i:]) for i in range(100)), *[""] * 100]
    whole = encode_lists(numbered, texts)
    steps = []
    monkeypatch.setattr(
        tokenization, "range", lambda *a: steps.append(a) or range(*a), raising=False
    )
    for chunk, step in ((10_000, 2), (8_000_000, 2000)):
        monkeypatch.setattr(tokenization, "CHUNK", chunk)
        assert encode_lists(numbered, texts) == whole
        assert steps.pop() == (0, len(texts), step)


def test_the_share_of_unknown_words_that_are_read(numbered, wordpiece):
    """Row 55: [UNK] among words, whole ones also where they have several pieces."""

    def shares(tokenizer, *texts):
        reviews = Reviews.from_texts(texts)
        return unknown_shares(tokenizer, encode(tokenizer, reviews, 9, "head")).tolist()

    assert shares(numbered, "w001 w002", "w001 what", "это 😀", "") == [0, 0.5, 1, 1]
    assert shares(numbered, "w001 " * 9 + "what " * 99) == [0]
    assert len(wordpiece.encode("bdgo", add_special_tokens=False)) > 1, "no word of several pieces"
    assert shares(wordpiece, "good bdgo", "good 😀 bad 😀", "bdgo 😀", "это") == [0, 0.5, 0.5, 1]
    assert shares(wordpiece, "", "\u200b", "[SEP]") == [1, 1, 1]


@pytest.mark.parametrize("learn", [word_level, lambda t: train_wordpiece(t, vocabulary_size=9000)])
def test_scripts_that_the_vocabulary_hardly_has_are_foreign(learn):
    """Row 55: as BERT's, it spells Cyrillic in single letters, of which none is unknown."""
    russian, greek, japanese = "очень плохой фильм", "πολύ κακή ταινία", "映画はとてもひどい"
    english = learn([*WORDS, *(f"good{word}film" for word in WORDS), *russian, *greek])
    if "[CLS]" in english.get_vocab():
        assert "[UNK]" not in english.encode(russian, add_special_tokens=False).tokens
    texts = [russian, greek, japanese, f"film {russian}", "a « très » déjà-vu film", "", "😀 12 !"]
    expected = ["Cyrillic", "Greek", "Hiragana", "Cyrillic", "", "", ""]
    assert foreign_scripts(english, [*texts, f"filmfilmfilmfilm {russian}"]) == [*expected, ""]
    both = learn([*WORDS[:50], *russian.split(), "映画"])
    assert foreign_scripts(both, [russian, "good", f"{japanese} 映画"]) == ["", "", "Hiragana"]
    own = learn(["очень", "плохой", "фильм"])  # [PAD], [UNK] and [CLS] are no Latin words
    assert foreign_scripts(own, [russian, "a good film"]) == ["", "Latin"]


def test_encoded_reviews_are_their_texts():
    texts = [f"a film number {i}" for i in range(9)]
    reviews = Reviews.from_texts(["a film", *texts], [0, *(i % 2 for i in range(9))])
    tokenizer = word_level(texts)
    whole = [tokenizer.encode(text).ids for text in reviews.texts]
    advanced = []
    encoded = encode(tokenizer, reviews, 3, "head", advanced.append)
    assert sum(advanced) == len(encoded) == 10
    assert encoded.ids == reviews.ids and (encoded.labels == reviews.labels).all()
    assert encoded.lengths.tolist() == [2, *[3] * 9]
    assert encoded.token_ids.tolist() == [i for ids in whole for i in ids[:3]]
    assert encoded.truncated == 9


def test_ids_out_of_range_are_refused():
    """Row 22: an embedding would clamp them silently."""
    holed = Tokenizer(models.WordLevel({"[UNK]": 0, "good": 1, "bad": 3}, unk_token="[UNK]"))
    assert encode_lists(holed, ["good"]) == ([[1]], 0)
    with pytest.raises(InputError, match="gives the id 3, .* not in its vocabulary of 3"):
        encode_lists(holed, ["good", "bad"])
