"""Vocabularies learned or read; a damaged or useless one is refused."""

import json
import random

import pytest
from reviews import encode_lists, learn_words, refusal
from tokenizers import Tokenizer
from tokenizers.models import BPE, WordLevel, WordPiece

from sentiment_jax.data.tokenization import (
    load_pretrained_tokenizer,
    load_tokenizer,
    train_wordpiece,
)

TEXTS = [
    "this was a good movie, and that film wasn't bad",
    "unbelievably bad film: a waste of a good actor",
    "naïve café 😀 [SEP] tokens",
] * 20
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def wordpiece():
    return train_wordpiece(TEXTS, vocabulary_size=200)


def entries(tokenizer):
    """A vocabulary in the order of its ids."""
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.get)


def test_a_vocabulary_has_the_most_frequent_words_whatever_the_order_of_texts():
    texts = [f"Common{i % 3} COMMON{i % 3} word{i}" for i in range(9)]
    for again in (texts, texts[::-1]):
        for limits in ({"vocabulary_size": 5}, {"min_frequency": 6}):
            tokenizer = learn_words(again, **limits)
            assert entries(tokenizer) == ["[PAD]", "[UNK]", "common0", "common1", "common2"]
            assert encode_lists(tokenizer, ["common1 Word1 COMMON0"]) == ([[3, 1, 2]], 0)
    assert len(entries(learn_words(texts, min_frequency=7))) == 2


def test_words_keep_their_apostrophes():
    text = "I didn't like 'Rock'n'Roll'... really?!"
    tokens = learn_words([text]).encode(text).tokens
    assert tokens == ["i", "didn't", "like", "'", "rock'n'roll", "'...", "really", "?!"]


def test_wordpiece_is_the_same_every_time(wordpiece):
    """In whatever order texts come, and Python iterates over a set of characters."""
    characters = {*wordpiece.normalizer.normalize_str("".join(TEXTS))} - {" "}
    first = [*SPECIAL, *(f"##{character}" for character in sorted(characters))]
    for texts in (TEXTS, TEXTS, random.Random(0).sample(TEXTS, len(TEXTS))):
        again = train_wordpiece(texts, vocabulary_size=200)
        assert entries(again)[: len(first)] == first
        assert entries(again) == entries(wordpiece)
    smaller = len(entries(wordpiece)) - 9
    assert entries(train_wordpiece(TEXTS, vocabulary_size=smaller)) == entries(wordpiece)[:smaller]


def test_tokenizer_json_round_trip_ignores_its_own_truncation_and_padding(tmp_path, wordpiece):
    path = tmp_path / "tokenizer.json"
    whole = encode_lists(wordpiece, TEXTS[:2])
    plain = wordpiece.to_str()
    wordpiece.enable_truncation(4)
    wordpiece.enable_padding(length=50)
    assert wordpiece.to_str() != plain
    wordpiece.save(str(path))
    for loaded in (load_tokenizer(path), load_pretrained_tokenizer(tmp_path)):
        assert loaded.to_str() == plain
        assert encode_lists(loaded, TEXTS[:2]) == whole


def test_a_tokenizer_that_adds_nothing_adds_cls_and_sep(tmp_path, wordpiece):
    """A tokenizer.json need not hold a post-processor."""
    expected = wordpiece.encode(TEXTS[0]).ids
    wordpiece.post_processor = None
    wordpiece.save(str(tmp_path / "tokenizer.json"))
    assert load_pretrained_tokenizer(tmp_path).encode(TEXTS[0]).ids == expected


def test_a_vocabulary_file_is_read_as_by_transformers(tmp_path, monkeypatch, wordpiece):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    from transformers import BertTokenizer

    lines = "\n".join(entries(wordpiece)) + "\n"
    (tmp_path / "vocab.txt").write_text(lines, encoding="utf-8")
    texts = [*TEXTS[:2], "Naïve CAFÉ, 中文 \u200b wasn't İ 😀 x\x00y", ""]
    theirs = BertTokenizer.from_pretrained(str(tmp_path))
    expected = theirs(texts, truncation=True, max_length=12)["input_ids"]
    for ours in (load_pretrained_tokenizer(tmp_path), wordpiece):
        assert encode_lists(ours, texts, max_length=12)[0] == expected


def test_cased_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\r\n".join([*SPECIAL, "Good", "good"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    ids, _ = encode_lists(load_pretrained_tokenizer(tmp_path), ["Good good"])
    assert ids == [[2, 5, 6, 3]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README", ""),
        ("tokenizer.json", ""),
        ("tokenizer.json", '{"version": "1.0", "model": '),
        ("tokenizer.json", WordLevel({"a": 0, "[CLS]": 3, "[SEP]": 4})),
        ("tokenizer.json", WordLevel({"[CLS]": 0, "[SEP]": 1}, unk_token="[UNK]")),
        ("tokenizer.json", WordPiece({"a": 0, "[CLS]": 1, "[SEP]": 2}, unk_token="[UNK]")),
        ("tokenizer.json", BPE()),
        ("vocab.txt", ""),
        ("vocab.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 231508\n"),
        ("vocab.txt", "[PAD]\n[UNK]\ngood\nbad\n"),
        ("vocab.txt", "[PAD]\n[CLS]\n[SEP]\ngood\nbad\n"),
        ("vocab.txt", "\n".join([*SPECIAL, "", "good\n"])),  # is the id of "good" 5 or 6?
        ("vocab.txt", "\n".join([*SPECIAL, "good", "good\n"])),
    ],
)
def test_missing_damaged_or_useless_tokenizers_are_refused(tmp_path, name, content):
    if not isinstance(content, str):  # ids beyond the vocabulary, no [UNK], no entries
        content = Tokenizer(content).to_str()
    (tmp_path / name).write_text(content, encoding="utf-8")
    expected = "neither tokenizer.json nor vocab" if name == "README" else "download it again"
    assert expected in refusal(tmp_path, load_pretrained_tokenizer, tmp_path)


def test_dropout_of_merges_is_refused(tmp_path):
    """Each reading of a text would give other tokens: no run could be resumed."""
    entries = {token: i for i, token in enumerate(["[CLS]", "[SEP]", "a", "b", "ab"])}
    for dropout, refused in ((0.5, True), (None, False)):
        model = BPE(entries, [("a", "b")], dropout=dropout)
        Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
        if refused:
            assert "dropout" in refusal(tmp_path, load_pretrained_tokenizer, tmp_path)
        else:
            assert encode_lists(load_pretrained_tokenizer(tmp_path), ["ab"]) == ([[0, 4, 1]], 0)
