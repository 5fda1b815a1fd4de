"""Truncation exact to the token, no review without one, a cache that is only a copy."""

import numpy as np
import pytest
from reviews import encode_lists, random_encoded

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import encoding
from sentiment_jax.data.cache import cache_folder
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.encoding import Encoded, check_encoded, encode, encode_corpus
from sentiment_jax.data.legibility import foreign_scripts, unknown_shares
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import train_word_level, train_wordpiece
from sentiment_jax.errors import InputError

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


def test_head_tail_at_512_is_128_and_382(wordpiece):
    good, bad = (wordpiece.token_to_id(word) for word in ("good", "bad"))
    text = "good " * 128 + "film " * 90 + "bad " * 382
    (ids,), _ = encode_lists(wordpiece, [text], max_length=512, truncation="head_tail")
    assert ids == [2] + [good] * 128 + [bad] * 382 + [3]


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
    monkeypatch.setattr(encoding, "range", lambda *a: steps.append(a) or range(*a), raising=False)
    for chunk, step in ((10_000, 2), (8_000_000, 2000)):
        monkeypatch.setattr(encoding, "CHUNK", chunk)
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
def test_a_text_in_a_script_that_the_vocabulary_hardly_has_is_told(learn):
    """As in BERT's: it spells Cyrillic in single letters, of which none is unknown."""
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


@pytest.fixture
def make(tmp_path):
    """A function that returns a DataConfig with a cache folder of the test's own."""
    return lambda **settings: DataConfig(
        **{"max_length": 4, "cache": str(tmp_path / "cache"), **settings}
    )


@pytest.fixture
def corpus_and_tokenizer(make):
    splits = {
        split: Reviews.from_texts(
            [f"a film number {i}, {split}" for i in range(count)], [i % 2 for i in range(count)]
        )
        for split, count in (("train", 9), ("val", 3), ("test", 5))
    }
    return Corpus(splits, {}), word_level(splits["train"].texts), make()


def assert_equal(first: dict[str, Encoded], second: dict[str, Encoded]):
    assert list(first) == list(second) == ["train", "val", "test"]
    for a, b in zip(first.values(), second.values(), strict=True):
        assert a.ids == b.ids and a.truncated == b.truncated
        for name in ("labels", "token_ids", "offsets"):
            x, y = getattr(a, name), getattr(b, name)
            assert x.dtype == y.dtype and (x == y).all()


def test_encoded_reviews(corpus_and_tokenizer):
    corpus, tokenizer, config = corpus_and_tokenizer
    for split, encoded in encode_corpus(corpus, tokenizer, config).items():
        reviews = corpus.splits[split]
        whole = [tokenizer.encode(text).ids for text in reviews.texts]
        assert encoded.ids == reviews.ids and (encoded.labels == reviews.labels).all()
        assert encoded.lengths.tolist() == [min(len(ids), 4) for ids in whole]
        assert encoded.token_ids.tolist() == [i for ids in whole for i in ids[:4]]
        assert encoded.truncated == sum(len(ids) > 4 for ids in whole) > 0


def test_cache_hit_gives_identical_arrays_without_encoding(corpus_and_tokenizer, monkeypatch):
    first = encode_corpus(*corpus_and_tokenizer)
    monkeypatch.setattr(encoding, "encode", None)
    assert_equal(encode_corpus(*corpus_and_tokenizer), first)


def test_damaged_cache_files_are_rebuilt(corpus_and_tokenizer):
    folder = cache_folder(corpus_and_tokenizer[2])
    first = encode_corpus(*corpus_and_tokenizer)
    files = sorted(folder.iterdir())
    assert len(files) == 3 and {file.suffix for file in files} == {".npz"}
    whole = {file: file.read_bytes() for file in files}
    for damage in (
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
    ):
        for file, raw in whole.items():
            file.write_bytes(damage(raw))
        assert_equal(encode_corpus(*corpus_and_tokenizer), first)
        assert sorted(folder.iterdir()) == files
        assert [file.read_bytes() == whole[file] for file in files] == [True] * 3


def test_cache_distinguishes_what_changes_the_ids(corpus_and_tokenizer, make):
    corpus, tokenizer, config = corpus_and_tokenizer
    first = encode_corpus(corpus, tokenizer, config)
    longer = encode_corpus(corpus, tokenizer, make(max_length=5))
    assert longer["train"].lengths.max() == 5
    tail = encode_corpus(corpus, tokenizer, make(truncation="tail"))
    assert (tail["train"].token_ids != first["train"].token_ids).any()
    other = word_level(["film"])
    assert encode_corpus(corpus, other, config)["train"].token_ids.max() == 2
    test = corpus.splits["test"]
    backwards = Corpus({"test": test.take(np.arange(len(test))[::-1])}, {})
    reversed_ids = encode_corpus(backwards, tokenizer, config)["test"].token_ids.tolist()
    rows = first["test"].token_ids.reshape(len(test), 4)  # every text has four tokens or more
    assert reversed_ids == rows[::-1].reshape(-1).tolist()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(DataConfig()) == tmp_path / "sentiment_jax"
    assert cache_folder(DataConfig(cache="/elsewhere")).as_posix() == "/elsewhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(DataConfig()) == tmp_path / ".cache" / "sentiment_jax"


def test_without_a_writable_cache_folder_reviews_are_encoded_each_time(
    corpus_and_tokenizer, tmp_path, make
):
    corpus, tokenizer, config = corpus_and_tokenizer
    (tmp_path / "file").write_text("")
    blocked = make(cache=str(tmp_path / "file" / "below"))
    assert_equal(
        encode_corpus(corpus, tokenizer, blocked), encode_corpus(corpus, tokenizer, config)
    )


def test_failed_cache_write_leaves_nothing_behind(corpus_and_tokenizer, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(encode_corpus(*corpus_and_tokenizer)) == 3
    assert list(cache_folder(corpus_and_tokenizer[2]).iterdir()) == []


def make_encoded(token_ids=(5, 6), labels=(0, 1)):
    arrays = {"token_ids": np.array(token_ids, np.int32), "labels": np.array(labels, np.int32)}
    return random_encoded(2, longest=1, vocabulary=7, **arrays)


def test_token_ids_must_fit_the_embedding_table():
    check_encoded({"train": make_encoded()}, 7)
    with pytest.raises(InputError, match="token id 6 of split val .* vocabulary of 6"):
        check_encoded({"train": make_encoded((5, 5)), "val": make_encoded()}, 6)
    with pytest.raises(InputError, match="token id -1"):
        check_encoded({"train": make_encoded((5, -1))}, 7)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_must_be_0_or_1(label):
    with pytest.raises(InputError, match=f"train, row 1: label {label} is not 0 or 1"):
        check_encoded({"train": make_encoded(labels=(0, label))}, 7)
