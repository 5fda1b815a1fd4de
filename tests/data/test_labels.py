"""Which class a label stands for, in every way that users write them."""

from unicodedata import normalize

import numpy as np
import pytest
from reviews import refusal, write_data

from sentiment_jax.config.schema import CLASSES, DataConfig, join_names, split_names
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.kinds import ONE_CLASS
from sentiment_jax.data.labels import number_labels

STARS = {"positive_labels": "4,5", "negative_labels": "1,2"}
WORDS = ("negative", "neutral", "positive")


def number(found, scored=False, **settings):
    """The classes of the labels found, -1 for a row to drop, and their names."""
    rows = [f"row {i + 2}" for i in range(len(found))]
    data = DataConfig("csv", "my.csv", **settings)
    labels, names, _ = number_labels(found, rows, data, scored=scored)
    return np.where(labels.any(axis=1), labels.argmax(axis=1), -1).tolist(), names


def test_labels_are_classes_in_the_order_of_numbers_or_letters():
    for labels, names, numbers in (
        # Few spellings of these two are enough, and they may be mixed.
        (["0", "neg", "pos", "positive", " Positive ", "NEG"], CLASSES, [0, 0, 1, 1, 1, 0]),
        (["True", "FALSE", "true", "1.0", "0.0"], CLASSES, [1, 0, 1, 1, 0]),
        (["pos", "neg", "neg"], ("neg", "pos"), [1, 0, 0]),
        (["TRUE", "false"], ("false", "TRUE"), [1, 0]),
        (["pos", "0"], CLASSES, [1, 0]),
        (["good", "bad"] * 5, ("bad", "good"), [1, 0] * 5),
        (["Good", "bad", "good"] * 5, ("bad", "Good"), [1, 0, 1] * 5),
        (["neutral", "negative", "positive"] * 5, WORDS, [1, 0, 2] * 5),
        (["0", "1", "-1"] * 5, ("-1", "0", "1"), [1, 2, 0] * 5),
        (["10", "9.0", "1", "1.0"] * 5, ("1", "9", "10"), [2, 1, 0, 0] * 5),
        (["2.5", "2", "10"] * 5, ("2", "2.5", "10"), [1, 0, 2] * 5),
        (["caf\u00e9", "cafe\u0301", "Rome"] * 5, ("caf\u00e9", "Rome"), [0, 0, 1] * 5),  # NFC, NFD
        (["New York", "new  york", "Rome"] * 5, ("New York", "Rome"), [0, 0, 1] * 5),
    ):
        assert number(labels) == (numbers, names)
        assert number(labels[::-1]) == (numbers[::-1], names)  # whatever the order of the file


def test_labels_not_named_are_dropped_and_counted(capsys):
    for labels, settings, numbers, count, dropped in (
        ("5 4.0 3 2 1.0 3 2.5", STARS, [1, 1, -1, 0, 0, -1, -1], "3 of 7", "3 (2), 2.5 (1)"),
        ("ham spam ? Spam", {"labels": "spam,ham"}, [1, 0, -1, 0], "1 of 4", "? (1)"),
        ("1 0 2", {"labels": "1,0"}, [0, 1, -1], "1 of 3", "2 (1)"),
        ("0 1 2", {"labels": "0,1"}, [0, 1, -1], "1 of 3", "2 (1)"),
        ("0 pos ?", {"labels": "neg,pos"}, [0, 1, -1], "1 of 3", "? (1)"),
    ):
        names = split_names(settings.get("labels", ",".join(CLASSES)))
        assert number(labels.split(), **settings) == (numbers, names)
        shown = capsys.readouterr().err
        assert shown == f"dropped  {count} texts in my.csv, labeled {dropped}\n"


def test_in_training_the_lists_of_stars_mean_what_they_say():
    """The built-in words are for tables that a run scores."""
    lists = {"positive_labels": "negative", "negative_labels": "positive"}  # its own spellings
    labels = ["negative", "positive", "pos"]
    assert number(labels, **lists)[0] == [1, 0, -1]


RUNS = {  # how the classes are listed -> settings
    "0/neg/negative/false, 1/pos/positive/true: ": {"labels": "negative,positive"},  # of 0/1, too
    "bad, good: ": {"labels": "bad,good"},
    "1, 2, 3, 4, 5: ": {"labels": "1,2,3,4,5"},
    "1/2, 4/5: neg/negative/false, pos/positive/true: ": STARS,  # either
    "-1, 0, 1: ": {"labels": "-1,0,1"},
    "mauvais, très bon: ": {"labels": "mauvais,tr\u00e8s bon"},
}
# The labels of a table, _ for a blank, then for each of RUNS: the class of each label, or a dot if
# it is dropped; ? if an absent class is warned of; - they do not fit; = one is missing.
SCORED = """
0/1                                01    -    -      -      12?    -
0.0/1.0                            01    -    -      -      12?    -
1                                  1?    -    0?     0?     2?     -
1/2                                -     -    01?    00?    -      -
1.0/2.0                            -     -    01?    00?    -      -
-1/1                               -     -    -      -      02?    -
-1/+1                              -     -    -      -      -      -
-1/0/1                             -     -    -      -      012    -
0/1/2                              -     -    -      -      -      -
0/0.5/1                            -     -    -      -      -      -
-1/0/0.5/1                         -     -    -      -      01.2   -
0/2                                -     -    -      -      -      -
0/4                                -     -    -      -      -      -
1/5                                -     -    04?    01     -      -
1/2/3                              -     -    012?   -      -      -
1/2/3/4/5                          -     -    01234  00.11  -      -
1.0/2.0/3.0/4.0/5.0                -     -    01234  00.11  -      -
0/1/2/3/4                          -     -    -      -      -      -
0/1/2/3/4/5                        -     -    -      -      -      -
1/2/3/4/5/6                        -     -    -      -      -      -
1/2/2.5/3/4/5                      -     -    01.234 00..11 -      -
4/5                                -     -    34?    11?    -      -
3/4/5                              -     -    234?   -      -      -
0.1/0.9                            -     -    -      -      -      -
neg/pos                            01    -    -      01     -      -
Negative/POSITIVE                  01    -    -      01     -      -
_negative/positive__               01    -    -      01     -      -
"negative"/"positive"              -     -    -      -      -      -
negative/positive/"positive"       01.   -    -      01.    -      -
True/False                         10    -    -      10     -      -
T/F                                -     -    -      -      -      -
yes/no                             -     -    -      -      -      -
ja/nein                            -     -    -      -      -      -
Good/BAD                           -     10   -      -      -      -
good/bad/so_so                     -     10.  -      -      -      -
good/bad/positive                  -     -    -      -      -      -
good/bad/2                         -     -    -      -      -      -
good                               -     1?   -      -      -      -
good/so_so                         -     -    -      -      -      -
mauvais/très_bon                   -     -    -      -      -      01
mauvais/tre\u0300s_bon             -     -    -      -      -      01
MAUVAIS/TRE\u0300S_BON             -     -    -      -      -      01
mauvais/tres_bon                   -     -    -      -      -      -
0/positive                         01    -    -      -      -      -
1/negative                         10    -    -      -      -      -
1/negative/positive                101   -    -      -      -      -
1/2/negative/positive              -     -    -      -      -      -
1/5/negative/positive              -     -    -      -      -      -
negative/neutral/positive          0.1   -    -      0.1    -      -
neutral/positive                   -     -    -      -      -      -
positive                           1?    -    -      1?     -      -
fake/true                          -     -    -      -      -      -
neg/positiv                        -     -    -      -      -      -
neutral                            -     -    -      -      -      -
5_stars/1_star                     -     -    -      -      -      -
0,0/1,0                            -     -    -      -      -      -
1_star/0/1                         .01   -    -      -      -      -
negative/positive/_                =     =    =      =      =      =
0/1/nan                            =     =    =      =      =      =
"""


@pytest.mark.parametrize("row", SCORED.strip().splitlines())
def test_a_table_that_is_scored_has_the_classes_of_the_run_or_is_refused(row, capsys):
    written, *expected = row.split()
    labels = [label.replace("_", " ") for label in written.split("/")]
    for (listed, settings), wanted in zip(RUNS.items(), expected, strict=True):
        if wanted == "=":
            assert "no label (row" in refusal("my.csv", number, labels, scored=True, **settings)
        elif wanted == "-":
            message = refusal("my.csv", number, labels, scored=True, **settings)
            found, known = message.split(" do not fit the classes ")
            spelled = (normalize("NFC", label).strip().removesuffix(".0") for label in labels)
            every = all if len(labels) <= 5 else any  # of more, those that do not fit
            assert every(f"{label.lower()} (1)" in found for label in spelled)
            assert known.partition(":")[0] in listed
        else:
            numbers, _ = number(labels, scored=True, **settings)
            assert numbers == [-1 if n == "." else int(n) for n in wanted.rstrip("?")]
            shown = capsys.readouterr().err
            assert (f"dropped  {wanted.count('.')} of {len(labels)}" in shown) == ("." in wanted)
            assert (": none is of class " in shown) == wanted.endswith("?")


def test_labels_that_cannot_be_classes_are_named():
    for labels, settings, expected in (
        *((["pos", blank, "neg"], {}, "no label (row 3: ''") for blank in ("", "  ")),
        *((["pos", blank, "neg"], {}, "no label (row 3: 'nan'") for blank in ("nan", "NaN")),
        (["5", "", "1"], STARS, "no label (row 3"),
        (["?"] * 100, {}, "1 different labels, ? (100); 2 to 1,000 are expected"),
        ([f"id {i}" for i in range(1001)], {}, "1001 different labels, id 0 (1), id 1 (1)"),
        ([f"id {i}" for i in range(1001)] * 5, {}, "1001 different labels, id 0 (5), id 1 (5)"),
        ([f"id {i}" for i in range(50)], {}, "row 6: 'id 4' and 45 more): are these texts? name"),
        (["a film " * 20 + str(i) for i in range(50)], {}, "and 45 more): are these texts?"),
        (
            ["1", "2"] * 5,
            {"labels": "negative,positive"},
            "1 (5), 2 (5) do not fit the classes 0/n",
        ),
        (["a", "b"] * 5, {"labels": "a,b,A"}, "label 'A' can't be told from others"),
        ([*"123456"] * 5, {"labels": "1,2,3,4,5", "scored": True}, "the labels 6 (5) do not fit"),
        (["-1", "0", "1"] * 5, {"labels": "neg,pos"}, "do not fit the classes 0/neg/neg"),
        ([str(i / 8) for i in range(50)], {}, "regression is not supported: make few classes of"),
        (["a\x1b[2J", "b"] * 5, {}, r"'a\x1b[2J' cannot name a class"),
        *(
            (["pos"] * 10 + [x, x] + ["neg"] * 10, {}, f"(row 12: {x!r}, row 13: {x!r}): correct t")
            for x in ("-1", "2", "0.5", "maybe", "posi")
        ),
    ):
        message = refusal("my.csv", number, labels, **settings)
        assert expected in message and len(message) < 400
        assert ("correct them" in message) == ("--config.data.labels" in message)


def test_several_labels_in_one_are_refused_but_not_a_comma_in_a_name():
    for labels, several in (
        (["a", "b", "a;b"], "a;b"),
        (["food", "Food, staff", "staff", "rooms"], "food, staff"),
        (["x z", "y", "y|x z"], "y|x z"),
        (["a;b", "b;c", "a", "b"], "a;b"),
        (["['a', 'b']", "['a']", "[]"], "['a', 'b']"),
        (['["a","b"]', "a"], '["a","b"]'),
        (["[0, 10]", "[10, 20]", "[]"], ""),
        (["food, drink", "food", "rooms"], ""),
        (["Austin, TX", "Dallas, TX", "Chicago, IL"], ""),
        (["don't know", "won't say", "yes"], ""),
        (["yes, definitely", "no, definitely", "yes", "no"], ""),
    ):
        said = {}
        if several:
            problem = f"column 'label': {several!r} holds several labels: set --config.data.label_"
            assert problem in refusal("my.csv", number, labels * 5)
            said = {"labels": join_names(labels)}
        assert sorted(number(labels * 5, **said)[1]) == sorted(labels)


def test_ratings_are_hinted_at(capsys):
    for labels, positive, negative in (
        ("1 2 3 4 5", "4,5", "1,2"),
        ("1.0 2.0 4.0 5.0", "4,5", "1,2"),
        ("0.5 1 3 3.5 5", "5", "0.5,1"),
        ("1 2 3 4 5 6 7 8 9 10", "7,8,9,10", "1,2,3,4"),
        ("0 4 6 7 10", "7,10", "0,4"),
        ("0 1 2 3 4 5", "", ""),  # of questions, TREC's for example
        ("3 4 5", "", ""),
        ("1 5", "", ""),
        ("-1 0 1", "", ""),
        ("0 1 2", "", ""),
        ("one 2 5", "", ""),
    ):
        number(labels.split() * 5)
        shown = capsys.readouterr().err
        flags = f"--config.data.positive_labels={positive} --config.data.negative_labels={negative}"
        if positive:
            assert shown.startswith("hint     my.csv, column 'label': ")
            assert shown.endswith(f" look like a rating: {flags} makes it two classes\n")
        else:
            assert shown == ""
        number(labels.split() * 5, labels=labels.replace(" ", ","))
        assert "hint" not in capsys.readouterr().err


def test_a_rounded_tie_is_a_tie():
    """Beside 0.5, float32 may leave the other class a trifle less: the first class is predicted."""
    decided = ONE_CLASS.decide(np.float32([[0.49999997, 0.5], [0.4, 0.6], [0.5, 0.5]]))
    assert decided.tolist() == [[True, False], [False, True], [True, False]]


TEXTS = [f"text number {i}" for i in range(60)]


def test_names_decide_the_hash_of_classes_except_spellings_of_negative_and_positive(tmp_path):
    def hash_of(*names, **settings):
        rows = [(text, names[i % 2]) for i, text in enumerate(TEXTS)]
        return load_dataset(write_data(tmp_path, rows, **settings)).statistics["data_hash"]

    assert len({hash_of("0", "1"), hash_of("neg", "pos"), hash_of("False", "True")}) == 1
    hashes = [hash_of(*names) for names in (("0", "1"), ("bad", "good"), ("lousy", "nice"))]
    hashes.append(hash_of("bad", "good", labels="good,bad"))
    hashes.append(hash_of("a;b", "c", label_separator="|"))
    hashes.append(hash_of("a;b", "d", label_separator="|"))
    assert len({*hashes}) == len(hashes)
