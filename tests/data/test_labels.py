"""Which class a label stands for, in every way that users write them."""

import numpy as np
import pytest
from reviews import write_csv

from sentiment_jax.config.schema import CLASSES, DataConfig, join_names, split_names
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.labels import decide, number_labels
from sentiment_jax.errors import InputError

STARS = {"positive_labels": "4,5", "negative_labels": "1,2"}


def number(found, **settings):
    """The classes of the labels found, and their names."""
    rows = [f"row {i + 2}" for i in range(len(found))]
    numbers, names, _ = number_labels(found, rows, DataConfig("csv", "my.csv", **settings))
    return numbers.tolist(), names


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        # Few spellings of these two are enough, and they may be mixed.
        (["0", "neg", "pos", "positive", " Positive ", "NEG"], CLASSES, [0, 0, 1, 1, 1, 0]),
        (["True", "FALSE", "true", "1.0", "0.0"], CLASSES, [1, 0, 1, 1, 0]),
        (["pos", "neg", "neg"], ("neg", "pos"), [1, 0, 0]),
        (["Positive", "Negative"], ("Negative", "Positive"), [1, 0]),
        (["good", "bad"] * 5, ("bad", "good"), [1, 0] * 5),
        (["Good", "bad", "good"] * 5, ("bad", "Good"), [1, 0, 1] * 5),
        (
            ["negative", "neutral", "positive"] * 5,
            ("negative", "neutral", "positive"),
            [0, 1, 2] * 5,
        ),
        (["0", "1", "-1"] * 5, ("-1", "0", "1"), [1, 2, 0] * 5),
        (["10", "9.0", "1", "1.0"] * 5, ("1", "9", "10"), [2, 1, 0, 0] * 5),
        (["2.5", "2", "10"] * 5, ("2", "2.5", "10"), [1, 0, 2] * 5),
        (["caf\u00e9", "cafe\u0301", "Rome"] * 5, ("caf\u00e9", "Rome"), [0, 0, 1] * 5),  # row 72
        (["New York", "new  york", "Rome"] * 5, ("New York", "Rome"), [0, 0, 1] * 5),
    ],
)
def test_labels_are_classes_in_the_order_of_numbers_or_letters(labels, names, numbers):
    assert number(labels) == (numbers, names)
    assert number(labels[::-1]) == (numbers[::-1], names)  # whatever the order of the file


@pytest.mark.parametrize(
    ("labels", "settings", "numbers", "names", "dropped"),
    [
        (["5", "4.0", "3", "2", "1.0", "3", "2.5"], STARS, [1, 1, -1, 0, 0, -1, -1], CLASSES)
        + ("3 of 7 reviews, labeled 3 (2), 2.5 (1)",),
        (["ham", "spam", "?", "Spam"], {"labels": "spam,ham"}, [1, 0, -1, 0], ("spam", "ham"))
        + ("1 of 4 reviews, labeled ? (1)",),
        (["1", "0", "2"], {"labels": "1,0"}, [0, 1, -1], ("1", "0"))
        + ("1 of 3 reviews, labeled 2 (1)",),
    ],
)
def test_of_the_labels_that_are_named_the_others_are_dropped_and_counted(
    labels, settings, numbers, names, dropped, capsys
):
    assert number(labels, **settings) == (numbers, names)
    assert capsys.readouterr().err == f"dropped  {dropped}\n"


FIFTY = [f"id {i}" for i in range(50)]
RARE = ["pos"] * 10 + ["{}"] + ["neg"] * 10 + ["{}"]


@pytest.mark.parametrize(
    ("labels", "settings", "expected"),
    [
        *((["pos", blank, "neg"], {}, "no label (row 3: ''") for blank in ("", "  ")),
        *((["pos", blank, "neg"], {}, "no label (row 3: 'nan'") for blank in ("nan", "NaN")),
        (["5", "", "1"], STARS, "no label (row 3"),
        (["?"] * 100, {}, "1 different labels, ? (100); 2 to 100 are expected"),
        ([f"id {i}" for i in range(101)], {}, "101 different labels, id 0 (1), id 1 (1)"),
        (
            FIFTY,
            {},
            "row 6: 'id 4' and 45 more): are these texts? name the other column by --config",
        ),
        (["a film " * 20 + str(i) for i in range(50)], {}, "and 45 more): are these texts?"),
        ([str(i / 8) for i in range(50)], {}, "regression is not supported: make few classes of"),
        (["a\x1b[2J", "b"] * 5, {}, r"'a\x1b[2J' cannot name a class"),
        *(
            ([cell.format(label) for cell in RARE], {}, f"(row 12: {label!r}, row 23: {label!r}): ")
            for label in ("-1", "2", "0.5", "maybe", "posi")  # row 29
        ),
    ],
)
def test_labels_that_cannot_be_classes_are_named(labels, settings, expected):
    with pytest.raises(InputError) as caught:
        number(labels, **settings)
    message = str(caught.value)
    assert expected in message
    assert message.startswith("my.csv") and "\n" not in message and len(message) < 400
    assert ("row 23" in message) == ("--config.data.labels" in message) or labels is FIFTY


@pytest.mark.parametrize(
    ("labels", "several"),
    [
        (["a", "b", "a;b"], "a;b"),
        (["food", "Food, staff", "staff", "rooms"], "food, staff"),
        (["a,b", "a,c", "b,c", "c"], "a,b"),
        (["['a', 'b']", "['a']", "['c']"], "['a', 'b']"),
        (["x", "y", "y|x"], "y|x"),
        (["food, drink", "food", "rooms"], ""),
        (["Austin, TX", "Dallas, TX", "Chicago, IL"], ""),
        (["don't know", "won't say", "yes"], ""),
        (["yes, definitely", "no, definitely", "yes", "no"], ""),
    ],
)
def test_several_labels_in_one_are_refused_but_not_a_comma_in_a_name(labels, several):
    if not several:
        assert len(number(labels * 5)[1]) == len(labels)
        return
    with pytest.raises(
        InputError, match=r"\(multi-label\): keep one per review; if this is one"
    ) as e:
        number(labels * 5)
    assert f"column 'label': {several!r} holds several labels" in str(e.value)
    assert number(labels * 5, labels=join_names(labels))[1] == tuple(labels)  # if they are classes


def test_names_may_hold_commas_and_quotes():
    names = ("a, b", 'c "d"', "e")
    assert split_names(join_names(names)) == names
    assert split_names("") == () and split_names(" 4, 5 ") == ("4", "5")


def test_a_rounded_tie_is_a_tie():
    """Beside 0.5, float32 may leave the other class a trifle less: the first class is predicted."""
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
    assert corpus(ROWS[::-1]).statistics == found.statistics
    limited = corpus(limit=24).statistics["counts"]["train"]
    assert limited == {"bad": 3, "good": 6, "meh": 10}


def test_a_class_too_small_to_split_is_named(corpus):
    rows = [(text, "ab"[i % 2]) for i, text in enumerate(TEXTS[:40])] + [("the same", "c")] * 9
    with pytest.raises(InputError, match="^9 c reviews cannot be split: each class needs two"):
        corpus(rows)
    with pytest.raises(InputError, match="^1 c reviews cannot be split"):
        corpus(rows[:41], labels="a,b,c")
    with pytest.raises(InputError, match="^0 eggs reviews cannot be split"):
        corpus(rows, labels="a,eggs")


def test_names_do_not_decide_the_hash_of_two_classes(corpus):
    """The same reviews with any spelling of two classes are the same data."""
    spelled = [
        corpus([(text, names[i % 2]) for i, text in enumerate(TEXTS)]).statistics["data_hash"]
        for names in (("0", "1"), ("neg", "pos"), ("False", "True"), ("bad", "good"))
    ]
    assert len({*spelled}) == 1
