"""The readers by name, the embedded sample, splits without leakage, and the data hash."""

import functools
import json

import pytest
from reviews import refusal, write_csv, write_data

from configs import lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import READERS, infer_source, load_dataset
from sentiment_jax.data.table import FORMATS
from sentiment_jax.data.texts import normalize_text

TRAIN = [(f"{'good' if i % 2 else 'bad'} film number {i} &amp; more", i % 2) for i in range(100)]
DUPLICATES = [(f"  {text}<br />", label) for text, label in TRAIN[:10]]  # once normalized
TEST = [("a fine new film", 1), ("a dull new film", 0), TRAIN[3], TRAIN[4], TRAIN[4]]


@pytest.fixture
def load(tmp_path):
    """A function that reads and splits two tables."""

    def call(train=TRAIN + DUPLICATES, test=TEST, **settings):
        return load_dataset(write_data(tmp_path, train, test, **settings))

    return call


def test_splits_and_statistics(load):
    dataset = load()
    train, val, test = (dataset.splits[name] for name in ("train", "val", "test"))
    assert test.texts[:2] == ("a fine new film", "a dull new film")  # in the order of the file
    assert {*train.texts}.isdisjoint(val.texts)
    labels = [*train.codes, *val.codes]
    assert sorted(zip(train.ids + val.ids, train.texts + val.texts, labels, strict=True)) == sorted(
        (f"row {row}", normalize_text(text), label)
        for row, (text, label) in enumerate(TRAIN + DUPLICATES, start=2)
    )
    statistics = json.loads(json.dumps(dataset.statistics))
    assert statistics["source"] == "csv" and len(statistics["data_hash"]) == 64
    assert statistics["counts"] == {
        "train": {"neg": 44, "pos": 44},
        "val": {"neg": 11, "pos": 11},
        "test": {"neg": 3, "pos": 2},
    }
    duplicates = statistics["duplicates"]
    assert duplicates["train"] + duplicates["val"] == 10 and duplicates["test"] == 1
    assert statistics["contradictory"] == 0
    assert statistics["shared"]["train_val"] == 0
    assert statistics["shared"]["train_test"] + statistics["shared"]["val_test"] == 3


@pytest.mark.parametrize("grouped", [True, False])
def test_duplicates_stay_in_one_split_if_grouped_whatever_the_order_of_the_file(load, grouped):
    contradictions = [(text, 1 - label) for text, label in TRAIN[:30]]
    rows = TRAIN + DUPLICATES + contradictions
    first = load(rows, group_duplicates=grouped)
    by_class = sorted(rows, key=lambda row: row[1])
    second = load(by_class, TEST[::-1], group_duplicates=grouped)
    assert first.statistics == second.statistics
    assert first.statistics["contradictory"] == 30
    assert (first.statistics["shared"]["train_val"] == 0) == grouped
    for split in ("train", "val"):
        assert first.splits[split].texts == second.splits[split].texts
        assert (first.splits[split].labels == second.splits[split].labels).all()


def test_data_hash_changes_with_any_text_label_and_split(load):
    changes = [
        {},
        {"train": [*TRAIN[1:], (TRAIN[0][0] + "!", 0)] + DUPLICATES},
        {"train": [*TRAIN[1:], (TRAIN[0][0], 1)]},
        {"test": [("a fine new film", 0), *TEST[1:]]},
        {"split_seed": 1},
        {"limit": 90},
    ]
    hashes = [load(**change).statistics["data_hash"] for change in changes]
    assert len({*hashes}) == len(changes)
    assert load(max_length=9).statistics["data_hash"] == hashes[0]


def test_limits_and_fractions_keep_classes_in_proportion(load):
    load = functools.partial(load, limit=40, test_limit=2, validation_fraction=0.25)
    dataset = load()
    assert dataset.statistics["counts"] == {
        "train": {"neg": 15, "pos": 15},
        "val": {"neg": 5, "pos": 5},
        "test": {"neg": 1, "pos": 1},
    }
    others = [load(split_seed=seed).splits for seed in range(1, 9)]
    assert len({frozenset(of["train"].texts + of["val"].texts) for of in others}) > 1
    assert len({of["test"].texts for of in others}) > 1


@pytest.mark.parametrize("blank", ["", "  \n", "\ufeff", "<br /><br />", "NaN"])
@pytest.mark.parametrize(("split", "row"), [("train", "(row 5)"), ("test", "(test row 5)")])
def test_blank_rows_are_dropped_and_counted_if_they_are_few(
    load, tmp_path, capsys, blank, split, row
):
    rows = {"train": TRAIN, "test": [(f"{text} again", label) for text, label in TRAIN]}
    expected = load(**rows).statistics
    rows[split] = [*rows[split][:3], (blank, ""), *rows[split][3:]]
    if split == "train":
        rows[split] = rows[split][:-1]
        expected = load(TRAIN[:-1], rows["test"]).statistics
    assert load(**rows).statistics == expected
    name = tmp_path / ("reviews.csv" if split == "train" else "test.csv")
    shown = f"dropped  1 of {len(rows[split])} texts in {name} without text {row}\n"
    assert capsys.readouterr().err == shown
    rows[split] = [*rows[split], (blank, 1)]
    message = refusal(name, load, **rows)
    assert f"2 of {len(rows[split])} texts" in message and "remove them, or name the" in message


def test_sample_is_balanced_and_without_duplicates():
    pool, test = READERS["sample"](DataConfig("sample", "ignored", text_column="x", test_path="y"))
    total = len(pool) + len(test)
    assert total >= 400 and abs(len(test) - 0.2 * total) <= 1
    for reviews in (pool, test):
        assert reviews.codes.sum() * 2 == len(reviews)
    assert len({*pool.texts, *test.texts}) == total


@pytest.mark.parametrize(
    ("file", "path", "source"),
    [
        *((None, f"my{end}", "csv") for end in (*FORMATS, ".CSV")),
        (None, "my.tar.gz", "folder"),
        ("aclImdb/train/pos/1_9.txt", ".", "folder"),
        ("aclImdb/train/pos/1_9.txt", "aclImdb", "folder"),
        ("my.xlsx", "my.xlsx", "csv"),
        ("mine/good/1.txt", "mine", "csv"),
        ("imdb_reviews/plain_text/1.0.0/dataset_info.json", ".", "tfds"),
        (None, "nowhere", None),
        ("empty/README.txt", "empty", None),
    ],
)
def test_a_path_decides_its_source(tmp_path, file, path, source):
    if file:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    for config in (lstm.get_config(), lstm.get_config("sample")):
        assert infer_source(config) is config
        named = override(config, {"data.path": str(tmp_path / path)})
        before = named.data.source
        assert infer_source(named).data.source == (source or before)
        assert named.data.source == before  # a copy was changed


def test_every_source_of_the_settings_has_a_reader():
    choices = DataConfig.__dataclass_fields__["source"].metadata["setting"].choices
    assert tuple(READERS) == choices


def test_a_validation_file_in_another_order_gives_the_same_split(tmp_path):
    rows = [(f"a film number {i}", i % 2) for i in range(20)]
    splits = []
    for name, held_out in (("a", rows), ("b", rows[::-1])):
        path = write_csv(tmp_path / f"{name}.csv", held_out)
        splits.append(
            load_dataset(DataConfig("csv", path=path, validation_path=path)).splits["val"]
        )
    assert splits[0].texts_hash == splits[1].texts_hash
    assert splits[0].labels.tolist() == splits[1].labels.tolist()
