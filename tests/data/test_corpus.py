"""From a source to token ids: splits, data hash, cache, and the checks before training."""

import csv
import json

import numpy as np
import pytest

from sentiment_jax.config import DataConfig
from sentiment_jax.data import encoding
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.encoding import Encoded, cache_folder, check_encoded, encode_corpus
from sentiment_jax.data.tokenization import train_word_level
from sentiment_jax.errors import InputError

TRAIN = [(f"{'good' if i % 2 else 'bad'} film number {i} &amp; more", i % 2) for i in range(100)]
COPIES = [(f"  {text}<br />", label) for text, label in TRAIN[:10]]  # equal once normalised
TEST = [("a fine new film", 1), ("a dull new film", 0), TRAIN[3], TRAIN[4], TRAIN[4]]


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


@pytest.fixture
def make(tmp_path):
    """A function that writes two CSV files and returns a DataConfig for them."""

    def make_config(train=TRAIN + COPIES, test=TEST, **settings):
        paths = [
            write_csv(tmp_path / f"{len(list(tmp_path.iterdir()))}.csv", r) for r in (train, test)
        ]
        settings = {"cache": str(tmp_path / "cache"), **settings}
        return DataConfig("csv", paths[0], test_path=paths[1], **settings)

    return make_config


def test_splits_and_facts(make):
    corpus = load_corpus(make())
    train, val, test = (corpus.splits[name] for name in ("train", "val", "test"))
    assert test.texts[:2] == ("a fine new film", "a dull new film")  # in the order of the file
    assert {*train.texts}.isdisjoint(val.texts)
    assert sorted(train.ids + val.ids) == sorted(f"row {i + 2}" for i in range(110))
    for reviews in (train, val):
        for name, text, label in zip(
            *map(list, (reviews.ids, reviews.texts, reviews.labels)), strict=True
        ):
            source = (TRAIN + COPIES)[int(name.removeprefix("row ")) - 2]
            assert text == source[0].strip().replace("&amp;", "&").removesuffix("<br />")
            assert label == source[1]
    statistics = json.loads(json.dumps(corpus.statistics))
    assert statistics["source"] == "csv" and len(statistics["data_hash"]) == 64
    assert statistics["counts"]["val"] == {"neg": 11, "pos": 11}
    assert statistics["counts"]["train"] == {"neg": 44, "pos": 44}
    assert statistics["counts"]["test"] == {"neg": 3, "pos": 2}
    assert statistics["extra_copies"]["train"] + statistics["extra_copies"]["val"] == 10
    assert statistics["extra_copies"]["test"] == 1
    assert statistics["grouped"] == 10 and statistics["contradictory"] == 0
    assert statistics["shared"]["train_val"] == 0
    assert statistics["shared"]["train_test"] + statistics["shared"]["val_test"] == 3


def test_contradictory_labels_are_counted(make):
    train = [*TRAIN, (TRAIN[0][0], 1)]
    assert load_corpus(make(train)).statistics["contradictory"] == 1


def test_order_of_the_file_changes_nothing(make):
    first = load_corpus(make())
    by_class = sorted(TRAIN + COPIES, key=lambda row: row[1])
    second = load_corpus(make(by_class, TEST[::-1]))
    assert first.statistics == second.statistics
    for split in ("train", "val"):
        assert first.splits[split].texts == second.splits[split].texts
        assert (first.splits[split].labels == second.splits[split].labels).all()


def test_data_hash_changes_with_any_text_label_and_split(make):
    hashes = {
        load_corpus(config).statistics["data_hash"]
        for config in (
            make(),
            make([*TRAIN[1:], (TRAIN[0][0] + "!", 0)] + COPIES),
            make([*TRAIN[1:], (TRAIN[0][0], 1)]),
            make(test=[("a fine new film", 0), *TEST[1:]]),
            make(split_seed=1),
            make(limit=90),
        )
    }
    assert len(hashes) == 6
    assert load_corpus(make(max_length=9)).statistics["data_hash"] in hashes


def test_ungrouped_split_leaks(make):
    assert load_corpus(make(group_duplicates=False)).statistics["shared"]["train_val"] > 0


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_validation_fraction(make, fraction):
    counts = load_corpus(make(validation_fraction=fraction)).statistics["counts"]
    assert counts["val"] == {"neg": round(55 * fraction), "pos": round(55 * fraction)}


def test_limits_keep_classes_in_proportion(make):
    config = make(limit=40, test_limit=2, validation_fraction=0.25)
    counts = load_corpus(config).statistics["counts"]
    assert counts["train"] == {"neg": 15, "pos": 15} and counts["val"] == {"neg": 5, "pos": 5}
    assert counts["test"] == {"neg": 1, "pos": 1}


@pytest.mark.parametrize("blank", ["", "  \n", "\ufeff", "<br /><br />", "NaN"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_blank_reviews_are_refused_with_their_rows(make, blank, split):
    rows = {"train": TRAIN, "test": TEST}
    rows[split] = [*rows[split][:3], (blank, 1), *rows[split][3:]]
    config = make(**rows)
    with pytest.raises(InputError) as caught:
        load_corpus(config)
    prefix = "test " if split == "test" else ""
    assert f"({prefix}row 5)" in str(caught.value) and config.path in str(caught.value)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_only_is_refused(make, label):
    rows = [row for row in TRAIN if row[1] == label]
    other = ("positive", "negative")[label]
    with pytest.raises(InputError, match=f"none of the 50 training reviews is {other}"):
        load_corpus(make(rows))


@pytest.fixture
def corpus_and_tokenizer(make):
    config = make(max_length=4)
    corpus = load_corpus(config)
    texts = corpus.splits["train"].texts
    return corpus, train_word_level(texts, vocabulary_size=999, min_frequency=1), config


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
    tail = encode_corpus(corpus, tokenizer, make(max_length=4, truncation="tail"))
    assert (tail["train"].token_ids != first["train"].token_ids).any()
    other = train_word_level(["film"], vocabulary_size=9, min_frequency=1)
    assert encode_corpus(corpus, other, config)["train"].token_ids.max() == 2
    backwards = load_corpus(make(test=TEST[::-1], max_length=4))
    reversed_ids = encode_corpus(backwards, tokenizer, config)["test"].token_ids.tolist()
    rows = first["test"].token_ids.reshape(len(TEST), 4)  # every text has four tokens or more
    assert reversed_ids == rows[::-1].reshape(-1).tolist()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder(DataConfig()) == tmp_path / "sentiment_jax"
    assert cache_folder(DataConfig(cache="/elsewhere")).as_posix() == "/elsewhere"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(DataConfig()) == tmp_path / ".cache" / "sentiment_jax"


def test_cache_folder_that_cannot_be_written_is_done_without(corpus_and_tokenizer, tmp_path, make):
    corpus, tokenizer, config = corpus_and_tokenizer
    (tmp_path / "file").write_text("")
    blocked = make(max_length=4, cache=str(tmp_path / "file" / "below"))
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
    return Encoded(
        ids=("row 2", "row 3"),
        labels=np.array(labels, np.int32),
        token_ids=np.array(token_ids, np.int32),
        offsets=np.array([0, 1, 2]),
        truncated=0,
    )


def test_token_ids_must_fit_the_embedding_table():
    check_encoded({"train": make_encoded()}, 7)
    with pytest.raises(InputError, match="token id 6 of split val .* vocabulary of 6"):
        check_encoded({"train": make_encoded((5, 5)), "val": make_encoded()}, 6)
    with pytest.raises(InputError, match="token id -1"):
        check_encoded({"train": make_encoded((5, -1))}, 7)


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_must_be_0_or_1(label):
    with pytest.raises(InputError, match=f"train, row 3: label {label} is not 0 or 1"):
        check_encoded({"train": make_encoded(labels=(0, label))}, 7)
