"""Which class a label stands for, in every way that users write them."""

import numpy as np
import pytest
from reviews import write_csv

from sentiment_jax.config.schema import CLASSES, DataConfig, join_names, split_names
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.labels import decide, number_labels, prediction_cells, prediction_columns
from sentiment_jax.errors import InputError


def number(found, **settings):
    """The classes of the labels found, and their names."""
    rows = [f"row {i + 2}" for i in range(len(found))]
    numbers, names = number_labels(found, rows, DataConfig("csv", "my.csv", **settings))
    return numbers.tolist(), names


def error_of(found, **settings):
    with pytest.raises(InputError) as caught:
        number(found, **settings)
    message = str(caught.value)
    assert message.startswith("my.csv") and "\n" not in message and len(message) < 400
    return message


def test_spellings_of_negative_and_positive():
    """Few of them are enough, and they may be mixed: these were never mistaken for other names."""
    labels = ["0", "neg", "negative", "1", "pos", "positive", " Positive ", "NEG"]
    assert number(labels) == ([0, 0, 0, 1, 1, 1, 1, 0], CLASSES)
    assert number(["True", "FALSE", "true", "1.0", "0.0"]) == ([1, 0, 1, 1, 0], CLASSES)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["good", "bad"], ("bad", "good")),
        (["Good", "bad", "good"], ("bad", "Good")),
        (["negative", "neutral", "positive"], ("negative", "neutral", "positive")),
        (["0", "1", "-1"], ("-1", "0", "1")),
        (["10", "9.0", "1", "1.0"], ("1", "9", "10")),
        (["2.5", "2", "10"], ("2", "2.5", "10")),
        (["New York", "new  york", "Rome"], ("New York", "Rome")),
    ],
)
def test_other_labels_are_classes_in_the_order_of_numbers_or_letters(labels, names):
    numbers, found = number(labels * 5)
    assert found == names
    assert number(labels[::-1] * 5)[1] == names  # whatever the order of the file
    assert numbers == [
        names.index(next(n for n in names if n.casefold() == " ".join(label.split()).casefold()))
        if "." not in label
        else names.index(label.removesuffix(".0"))
        for label in labels * 5
    ]


def test_stars_are_mapped_and_the_rest_is_dropped_and_counted(capsys):
    labels = ["5", "4.0", "3", "2", "1.0", "3", "2.5"]
    stars = {"positive_labels": "4,5", "negative_labels": "1,2"}
    assert number(labels, **stars) == ([1, 1, -1, 0, 0, -1, -1], CLASSES)
    line = "dropped  3 of 7 reviews, labeled 3 (2), 2.5 (1)\n"
    assert capsys.readouterr().err == line
    assert "no row is labeled 6 or 7; found are 3 (2), 5 (1)" in error_of(
        labels, positive_labels="6,7", negative_labels="1"
    )


def test_named_classes_keep_their_order_and_drop_the_others(capsys):
    found = ["ham", "spam", "?", "Spam"]
    assert number(found, labels="spam,ham") == ([1, 0, -1, 0], ("spam", "ham"))
    assert "1 of 4 reviews, labeled ? (1)" in capsys.readouterr().err
    assert "no row is labeled eggs" in error_of(found, labels="ham,eggs")


@pytest.mark.parametrize("label", ["-1", "2", "0.5", "maybe", "posi"])
def test_labels_too_rare_to_be_classes_are_named_with_their_rows(label):
    labels = ["pos"] * 10 + [label] + ["neg"] * 10 + [label]
    message = error_of(labels)
    assert f"row 12: {label!r}" in message and f"row 23: {label!r}" in message
    assert "positive" in message and "--config.data.labels" in message  # what to do
    assert number(labels + [label] * 3)[1] == tuple(sorted(["neg", "pos", label]))


@pytest.mark.parametrize("label", ["", "  ", "nan", "NaN"])
def test_rows_without_a_label_are_named(label):
    assert f"no label (row 3: {label.strip().lower()!r})" in error_of(["pos", label, "neg"])
    settings = {"positive_labels": "5", "negative_labels": "1"}
    assert "no label (row 3" in error_of(["5", label, "1"], **settings)


def test_labels_that_cannot_be_classes():
    assert "1 different labels, ? (100); 2 to 100 are expected" in error_of(["?"] * 100)
    many = [f"id {i}" for i in range(101)]
    assert "101 different labels, id 0 (1), id 1 (1)" in error_of(many)
    assert "row 6: 'id 4' and 45 more" in error_of(many[:50])
    assert r"'a\x1b[2J' cannot name a class" in error_of(["a\x1b[2J", "b"] * 5)


def test_names_may_hold_commas_and_quotes():
    names = ("a, b", 'c "d"', "e")
    assert split_names(join_names(names)) == names
    assert split_names("") == () and split_names(" 4, 5 ") == ("4", "5")


def test_verdicts_in_a_table():
    """Two classes keep their columns; the names of others stand in the cells."""
    two = np.float32([[0.25, 0.75], [0.5, 0.5]])
    assert prediction_columns(CLASSES) == ["predicted", "p_positive"]
    assert prediction_cells(CLASSES, two) == [[1, "0.750000"], [0, "0.500000"]]
    assert prediction_cells(("bad", "good"), two)[0] == ["good", "0.750000"]
    stars = ("-1", "0", "01")
    three = np.float32([[0.25, 0.25, 0.5], [0.5, 0.5, 0]])
    assert prediction_columns(stars) == ["predicted", "p_-1", "p_0", "p_01"]
    assert prediction_cells(stars, three) == [
        ["01", "0.250000", "0.250000", "0.500000"],
        [-1, "0.500000", "0.500000", "0.000000"],
    ]


def test_a_rounded_tie_is_a_tie():
    """Beside 0.5, float32 may leave the other class a trifle less: that is no verdict."""
    assert decide(np.float32([[0.49999997, 0.5], [0.4, 0.6], [0.5, 0.5]])).tolist() == [0, 1, 0]


TEXTS = [f"review number {i}" for i in range(60)]
ROWS = [*zip(TEXTS, ["meh"] * 30 + ["good"] * 20 + ["bad"] * 10, strict=True)]


@pytest.fixture
def corpus(tmp_path):
    """Three classes of 30, 20 and 10 reviews, or other rows, read and split."""

    def call(rows=ROWS, **settings):
        return load_corpus(DataConfig("csv", write_csv(tmp_path / "a.csv", rows), **settings))

    return call


def test_every_split_has_its_share_of_every_class(corpus):
    found = corpus()
    assert found.splits["train"].classes == ("bad", "good", "meh")
    assert found.statistics["counts"] == {
        "train": {"bad": 6, "good": 13, "meh": 19},
        "val": {"bad": 2, "good": 3, "meh": 5},
        "test": {"bad": 2, "good": 4, "meh": 6},
    }
    backwards = corpus(ROWS[::-1])
    assert backwards.statistics == found.statistics


def test_limits_keep_many_classes_in_proportion(corpus):
    sizes = [corpus(limit=n).statistics["counts"]["train"] for n in (12, 24, 36)]
    assert sizes == [
        {"bad": 1, "good": 3, "meh": 5},
        {"bad": 3, "good": 6, "meh": 10},
        {"bad": 5, "good": 10, "meh": 14},
    ]


def test_a_class_too_small_to_split_is_named(corpus):
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(TEXTS[:40])] + [("the same", "c")] * 9
    with pytest.raises(InputError, match="^9 c reviews cannot be split: each class needs two"):
        corpus(rows)


def test_texts_with_several_labels_are_counted(corpus):
    rows = [(f"text {i % 20}", "abc"[i // 20]) for i in range(60)]
    assert corpus(rows, validation_fraction=0.4).statistics["contradictory"] == 20


def test_names_do_not_decide_the_hash_of_two_classes(corpus):
    """The same reviews with any spelling of two classes are the same data."""
    spelled = [
        corpus([(text, names[i % 2]) for i, text in enumerate(TEXTS)]).statistics["data_hash"]
        for names in (("0", "1"), ("neg", "pos"), ("False", "True"), ("bad", "good"))
    ]
    assert len({*spelled}) == 1
