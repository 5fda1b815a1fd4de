"""The linear baseline is scikit-learn's, is kept for the next run, and never stops a run."""

import dataclasses
import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_union

from sentiment_jax.data import ngrams
from sentiment_jax.data.texts import Texts
from sentiment_jax.training import linear_baseline as baselines
from sentiment_jax.training import linear_model
from sentiment_jax.training.linear_baseline import linear_baseline as baseline_of
from sentiment_jax.training.linear_model import C
from sentiment_jax.training.tasks.classification import fit as choose_thresholds

WORDS = ["good", "bad", "film", "day", "very", "not", "a", "so", "plain"]


def make_reviews(count, classes=2, seed=0):
    """Random words, among which a word or two of the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    texts = [" ".join([*rng.choice(WORDS, 6), *[f"word{k}"] * rng.integers(0, 3)]) for k in labels]
    names = tuple(f"class {i}" for i in range(classes))
    return Texts.from_texts(texts, labels.tolist(), classes=names)


def make_splits(classes=2, **changes):
    splits = {"train": 90, "val": 30, "test": 40}
    made = {name: make_reviews(n, classes, seed=n) for name, n in splits.items()}
    return made | changes


def linear_baseline(splits, cv=()):
    return baseline_of(splits, choose_thresholds, cv)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sentiment_jax" / "linear"


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_are_those_of_five_lines_of_scikit_learn(classes):
    splits = make_splits(classes)
    found = linear_baseline(splits)
    assert found["C"] in C
    train, val = splits["train"], splits["val"]
    everything = train.texts + val.texts, [*train.codes, *val.codes]
    for name, (texts, labels) in {"val": (train.texts, train.codes), "test": everything}.items():
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        within = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        vectorizer = make_union(words, within)
        model = LogisticRegression(C=found["C"], solver="liblinear", dual=True, random_state=0)
        model = OneVsRestClassifier(model).fit(vectorizer.fit_transform(texts), labels)
        held_out = splits[name]
        of_split = vectorizer.transform(held_out.texts)
        probabilities = model.predict_proba(of_split)
        assert found["correct"][name] == (model.predict(of_split) == held_out.codes).tolist()
        scores = found[name]
        assert scores["examples"] == len(held_out)
        assert scores["accuracy"] == pytest.approx(model.score(of_split, held_out.codes))
        assert scores["loss"] == pytest.approx(log_loss(held_out.codes, probabilities), abs=1e-6)
        assert scores["accuracy"] > 1 / classes + 0.1, "the words say nothing"
    ranked = model.estimators_[-1].coef_[0, : len(vectorizer.transformer_list[0][1].vocabulary_)]
    names = vectorizer.transformer_list[0][1].get_feature_names_out()
    assert found["words"]["class 1" if classes == 2 else "class 2"][0] == names[ranked.argmax()]
    assert [words[0] for words in found["words"].values()] == [f"word{k}" for k in range(classes)]


def test_c_is_chosen_by_cross_validation_on_training_reviews(monkeypatch):
    monkeypatch.setattr(linear_model, "C", (1e-3, 30.0))
    splits = make_splits()
    assert linear_baseline(splits)["C"] == 30
    train = splits["train"]  # of labels at random, little should be learned
    labels = np.random.default_rng(0).permutation(train.codes).tolist()
    noise = Texts.from_texts(train.texts, labels, classes=train.classes)
    assert linear_baseline(make_splits(train=noise))["C"] == 1e-3


def test_many_classes_choose_c_by_one_fold_and_long_fits_are_announced(monkeypatch, capsys):
    fits = []
    fit = linear_model.fit
    count = lambda *given, **named: fits.append(1) or fit(*given, **named)  # noqa: E731
    monkeypatch.setattr(linear_model, "fit", count)
    splits = {name: make_reviews(240, classes=12) for name in ("train", "val", "test")}
    assert linear_baseline(splits)["test"]["accuracy"] > 0.9
    assert len(fits) == len(C) + 2 and not capsys.readouterr().out
    monkeypatch.setattr(linear_model, "LONG", 0)
    baselines._fit(splits, choose_thresholds, ())
    assert re.match(r"linear   about \d+ s and 0.0 GB for 12 classes: ", capsys.readouterr().err)
    baselines._fit(make_splits(3), choose_thresholds, ())
    assert not capsys.readouterr().err


def test_equal_reviews_are_fitted_once_and_a_damaged_file_again(cache, monkeypatch):
    fits = []
    fit = baselines._fit
    monkeypatch.setattr(baselines, "_fit", lambda *args: fits.append(1) or fit(*args))
    first = linear_baseline(make_splits())
    assert linear_baseline(make_splits()) == first
    assert len(fits) == 1
    labels = 1 - make_splits()["test"].codes
    others = Texts.from_texts(make_splits()["test"].texts, labels.tolist())
    assert linear_baseline(make_splits(test=others)) != first
    (path, _) = sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime)
    path.write_text(path.read_text()[:-30])
    assert linear_baseline(make_splits())["correct"] == first["correct"]
    assert len(fits) == 3


def test_words_have_the_names_of_the_classes_of_each_run():
    splits = make_splits()
    assert [*linear_baseline(splits)["words"]] == ["class 0", "class 1"]
    renamed = {n: dataclasses.replace(of, classes=("x", "y")) for n, of in splits.items()}
    assert [*linear_baseline(renamed)["words"]] == ["x", "y"]


def test_texts_without_words_have_characters_unless_there_are_too_many(monkeypatch):
    marks = Texts.from_texts(["!", "?"] * 20, [0, 1] * 20)
    assert linear_baseline(make_splits(train=marks, val=marks))["val"]["accuracy"] == 1
    monkeypatch.setattr(ngrams, "CHARACTERS", 10)
    assert linear_baseline({"train": marks}) == {}
    words = linear_baseline(make_splits(train=make_reviews(89)))
    assert words["test"]["accuracy"] > 0.6


def test_some_reviews_have_no_baseline():
    for texts, labels in (
        (["good film"] * 20, [1] * 20),  # no second class
        (["good film", "bad film"], [1, 0]),  # fewer than folds
    ):
        assert linear_baseline(make_splits(train=Texts.from_texts(texts, labels))) == {}
    rare = Texts.from_texts([f"film {i}" for i in range(9)], [0] * 6 + [1] * 3)
    halves = np.arange(0, 9, 2), np.arange(1, 9, 2)
    assert linear_baseline({"train": rare, "test": rare})["C"]
    assert linear_baseline({"train": rare, "test": rare}, [halves, halves[::-1]]) == {}


def of_three_classes(labels):
    """The texts of two classes with labels of three."""
    return Texts.from_texts(make_reviews(len(labels)).texts, labels, classes=("a", "b", "c"))


def test_a_class_without_training_reviews_and_an_empty_split_are_scored():
    train = of_three_classes(make_reviews(60).codes.tolist())
    found = linear_baseline({"train": train, "val": train.take(np.arange(0))})
    assert found.keys() == {"C", "ngrams", "words", "seconds", "correct"}
    found = linear_baseline({"train": train, "test": make_reviews(30, classes=3)})
    assert found["test"]["loss"] > 1, "class c has probability 0 everywhere"


@pytest.mark.parametrize("rare", [1, 2, 3])
def test_a_rare_class_neither_warns_nor_decides_about_c(rare, monkeypatch, recwarn):
    monkeypatch.setattr(linear_model, "C", (1e-3, 30.0))
    of_three = of_three_classes([*[2] * rare, *make_reviews(90).codes.tolist()[rare:]])
    test = of_three_classes(make_reviews(30).codes.tolist())
    found = linear_baseline({"train": of_three, "test": test})
    assert found["C"] == 30, "the first of the grid: no score was finite"
    assert not recwarn.list
