"""Synthetic product reviews: fixed by their seed, in all classes, too hard for one keyword."""

import collections

import pytest

from benchmarks.product_reviews import ENGLISH, FRENCH, NAMES, make_rows


def shares(rows):
    return {label: n / len(rows) for label, n in collections.Counter(r[1] for r in rows).items()}


def test_a_seed_determines_the_reviews():
    rows = make_rows(200, seed=3)
    assert rows == make_rows(200, seed=3)
    assert not {text for text, *_ in rows} & {text for text, *_ in make_rows(200, seed=4)}
    assert len({text for text, *_ in rows}) == 200


@pytest.mark.parametrize("labels", list(NAMES))
def test_all_classes_and_domains_occur(labels):
    rows = make_rows(1000, labels)
    assert shares(rows).keys() == {*NAMES[labels]}
    for share in shares(rows).values():
        assert share == pytest.approx(1 / len(NAMES[labels]), abs=0.04)
    assert {domain for *_, domain in rows} == set(ENGLISH.aspects)


def test_imbalanced_french_reviews():
    rows = make_rows(1000, positive=0.95, language="french")
    assert shares(rows)["pos"] == pytest.approx(0.95, abs=0.01)
    assert {domain for *_, domain in rows} == set(FRENCH.aspects)
    assert not any(" the " in text for text, *_ in rows)


def test_no_word_predicts_the_class():
    rows = make_rows(2000)
    texts = [({*text.lower().replace(".", " ").split()}, label) for text, label, _ in rows]
    counts = collections.Counter(word for words, _ in texts for word in words)
    frequent = [word for word, count in counts.items() if count > 100]
    correct = [
        sum((word in words) == (label == "pos") for words, label in texts) for word in frequent
    ]
    best = max(max(count, len(rows) - count) for count in correct) / len(rows)
    assert 0.5 < best < 0.65, "a keyword is enough"
