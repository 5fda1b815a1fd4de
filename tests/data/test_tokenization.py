"""Vocabularies learned or read; a damaged or useless one is refused."""

import json
import random

import pytest
from reviews import encode_lists

from sentiment_jax.data.tokenization import (
    load_pretrained_tokenizer,
    load_tokenizer,
    tokenizer_hash,
    train_word_level,
    train_wordpiece,
)
from sentiment_jax.errors import InputError

TEXTS = [
    "this was a good movie, and that film wasn't bad",
    "unbelievably bad film: a waste of a good actor",
    "naïve café 😀 [SEP] tokens",
] * 20
SHUFFLED = random.Random(0).sample(TEXTS, len(TEXTS))


def words(texts, vocabulary_size=1000, min_frequency=1):
    return train_word_level(texts, vocabulary_size, min_frequency)


def test_words_seen_less_often_than_min_frequency_are_unknown():
    tokenizer = words(["Often OFTEN often often often", "rare rare rare rare"], min_frequency=5)
    assert tokenizer.get_vocab() == {"[PAD]": 0, "[UNK]": 1, "often": 2}
    ids, _ = encode_lists(tokenizer, ["often Rare OFTEN"], max_length=9)
    assert ids == [[2, 1, 2]]


def test_vocabulary_keeps_the_most_frequent_words_whatever_the_order_of_texts():
    texts = [f"common{i % 3} word{i}" for i in range(50)]
    first = words(texts, vocabulary_size=5)
    assert set(first.get_vocab()) == {"[PAD]", "[UNK]", "common0", "common1", "common2"}
    assert tokenizer_hash(words(texts[::-1], vocabulary_size=5)) == tokenizer_hash(first)


def test_words_keep_their_apostrophes():
    text = "I didn't like 'Rock'n'Roll'... really?!"
    tokens = words([text]).encode(text).tokens
    assert tokens == ["i", "didn't", "like", "'", "rock'n'roll", "'...", "really", "?!"]


def test_wordpiece_is_bert_and_the_same_every_time():
    tokenizer = train_wordpiece(TEXTS, vocabulary_size=200)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [tokenizer.token_to_id(token) for token in special] == [0, 1, 2, 3, 4]
    assert tokenizer.get_vocab_size() == len(set(tokenizer.get_vocab().values())) <= 200
    encoding = tokenizer.encode("Unbelievably naïve CAFÉ")
    assert encoding.tokens[0] == "[CLS]" and encoding.tokens[-1] == "[SEP]"
    assert "[UNK]" not in encoding.tokens
    assert tokenizer.decode(encoding.ids) == "unbelievably naive cafe"
    for again in (TEXTS, TEXTS, SHUFFLED):
        assert train_wordpiece(again, vocabulary_size=200).get_vocab() == tokenizer.get_vocab()


def test_tokenizer_json_round_trip_ignores_its_own_truncation_and_padding(tmp_path):
    path = tmp_path / "tokenizer.json"
    tokenizer = train_wordpiece(TEXTS, vocabulary_size=200)
    encode_lists(tokenizer, TEXTS, max_length=9)
    plain = tokenizer_hash(tokenizer)
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    assert tokenizer_hash(tokenizer) != plain
    tokenizer.save(str(path))
    for loaded in (load_tokenizer(path), load_pretrained_tokenizer(tmp_path)):
        assert tokenizer_hash(loaded) == plain
        ids, _ = encode_lists(loaded, TEXTS[:2])
        assert [len(row) for row in ids] == [len(loaded.encode(text).ids) for text in TEXTS[:2]]


def test_a_tokenizer_that_adds_nothing_adds_cls_and_sep(tmp_path):
    """As earlier revisions did, so that their runs are read as before."""
    tokenizer = train_wordpiece(TEXTS, vocabulary_size=200)
    expected = tokenizer.encode(TEXTS[0]).ids
    tokenizer.post_processor = None
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert load_pretrained_tokenizer(tmp_path).encode(TEXTS[0]).ids == expected


def test_folder_with_only_a_vocabulary_equals_the_transformers_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    from transformers import BertTokenizer

    vocabulary = train_wordpiece(TEXTS, vocabulary_size=200).get_vocab()
    lines = "\n".join(sorted(vocabulary, key=vocabulary.get)) + "\n"
    (tmp_path / "vocab.txt").write_text(lines, encoding="utf-8")
    texts = [*TEXTS[:2], "Naïve CAFÉ, 中文 \u200b wasn't İ 😀 x\x00y", ""]
    ours, _ = encode_lists(load_pretrained_tokenizer(tmp_path), texts, max_length=12)
    trained, _ = encode_lists(train_wordpiece(TEXTS, vocabulary_size=200), texts, max_length=12)
    theirs = BertTokenizer.from_pretrained(str(tmp_path))
    assert ours == trained == theirs(texts, truncation=True, max_length=12)["input_ids"]


def test_cased_vocabulary(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Good", "good"]
    (tmp_path / "vocab.txt").write_text("\r\n".join(vocabulary))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    ids, _ = encode_lists(load_pretrained_tokenizer(tmp_path), ["Good good"], max_length=9)
    assert ids == [[2, 5, 6, 3]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", '{"version": "1.0", "model": '),
        ("tokenizer.json", "<html>404</html>"),
        ("vocab.txt", ""),
        ("vocab.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 231508\n"),
        ("vocab.txt", "[PAD]\n[UNK]\ngood\nbad\n"),
        ("vocab.txt", "[PAD]\n[CLS]\n[SEP]\ngood\nbad\n"),
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n\ngood\n"),  # row 47: ids 5 and 6?
        ("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ngood\ngood\n"),
    ],
)
def test_damaged_or_useless_tokenizers_are_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="download it again") as caught:
        load_pretrained_tokenizer(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_tokenizers(tmp_path):
    with pytest.raises(InputError, match=r"neither tokenizer\.json nor vocab\.txt"):
        load_pretrained_tokenizer(tmp_path)
