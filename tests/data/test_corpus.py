"""The readers by name, the embedded sample, splits without leakage, and the data hash."""

import json

import pytest
from reviews import write_csv

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.corpus import READERS, load_corpus
from sentiment_jax.errors import InputError

TRAIN = [(f"{'good' if i % 2 else 'bad'} film number {i} &amp; more", i % 2) for i in range(100)]
DUPLICATES = [(f"  {text}<br />", label) for text, label in TRAIN[:10]]  # once normalized
TEST = [("a fine new film", 1), ("a dull new film", 0), TRAIN[3], TRAIN[4], TRAIN[4]]


@pytest.fixture
def make(tmp_path):
    """A function that writes two CSV files and returns a DataConfig for them."""

    def make_config(train=TRAIN + DUPLICATES, test=TEST, **settings):
        number = len(list(tmp_path.iterdir()))
        path = write_csv(tmp_path / f"{number}.csv", train)
        test_path = write_csv(tmp_path / f"{number}-test.csv", test)
        return DataConfig("csv", path, test_path=test_path, **settings)

    return make_config


def test_splits_and_statistics(make):
    corpus = load_corpus(make())
    train, val, test = (corpus.splits[name] for name in ("train", "val", "test"))
    assert test.texts[:2] == ("a fine new film", "a dull new film")  # in the order of the file
    assert {*train.texts}.isdisjoint(val.texts)
    assert sorted(train.ids + val.ids) == sorted(f"row {i + 2}" for i in range(110))
    for reviews in (train, val):
        for name, text, label in zip(
            reviews.ids, reviews.texts, reviews.labels.tolist(), strict=True
        ):
            source = (TRAIN + DUPLICATES)[int(name.removeprefix("row ")) - 2]
            assert text == source[0].strip().replace("&amp;", "&").removesuffix("<br />")
            assert label == source[1]
    statistics = json.loads(json.dumps(corpus.statistics))
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


def test_contradictory_labels_are_counted_and_stay_in_one_split(make):
    train = [*TRAIN, *[(text, 1 - label) for text, label in TRAIN[:30]]]
    statistics = load_corpus(make(train)).statistics
    assert statistics["contradictory"] == 30
    assert statistics["shared"]["train_val"] == 0


@pytest.mark.parametrize("grouped", [True, False])
def test_the_order_of_the_file_does_not_affect_the_splits(make, grouped):
    first = load_corpus(make(group_duplicates=grouped))
    by_class = sorted(TRAIN + DUPLICATES, key=lambda row: row[1])
    second = load_corpus(make(by_class, TEST[::-1], group_duplicates=grouped))
    assert first.statistics == second.statistics
    for split in ("train", "val"):
        assert first.splits[split].texts == second.splits[split].texts
        assert (first.splits[split].labels == second.splits[split].labels).all()


def test_data_hash_changes_with_any_text_label_and_split(make):
    hashes = {
        load_corpus(config).statistics["data_hash"]
        for config in (
            make(),
            make([*TRAIN[1:], (TRAIN[0][0] + "!", 0)] + DUPLICATES),
            make([*TRAIN[1:], (TRAIN[0][0], 1)]),
            make(test=[("a fine new film", 0), *TEST[1:]]),
            make(split_seed=1),
            make(limit=90),
        )
    }
    assert len(hashes) == 6
    assert load_corpus(make(max_length=9)).statistics["data_hash"] in hashes


def test_an_ungrouped_split_has_leakage(make):
    assert load_corpus(make(group_duplicates=False)).statistics["shared"]["train_val"] > 0


def test_without_a_validation_split_all_are_trained_on(make):
    splits = load_corpus(make(validation_fraction=0.0)).splits
    assert (len(splits["train"]), len(splits["val"])) == (110, 0)
    halves = load_corpus(make()).splits
    expected = sorted([*halves["train"].texts, *halves["val"].texts])
    assert sorted(splits["train"].texts) == expected


def test_limits_and_fractions_keep_classes_in_proportion(make):
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
@pytest.mark.parametrize("fraction", [0.2, 0.0])
def test_one_class_only_is_refused(make, label, fraction):
    rows = [row for row in TRAIN if row[1] == label]
    absent = ("0 positive", "0 negative")[label]
    with pytest.raises(InputError, match=f"^{absent} reviews cannot be split"):
        load_corpus(make(rows, validation_fraction=fraction))


def test_sample_is_balanced_and_without_duplicates():
    pool, test = READERS["sample"](DataConfig("sample", "ignored", text_column="x", test_path="y"))
    total = len(pool) + len(test)
    assert total >= 400 and abs(len(test) - 0.2 * total) <= 1
    for reviews in (pool, test):
        assert reviews.labels.sum() * 2 == len(reviews)
    assert len({*pool.texts, *test.texts}) == total


def test_every_source_of_the_settings_has_a_reader():
    choices = DataConfig.__dataclass_fields__["source"].metadata["setting"].choices
    assert tuple(READERS) == choices
