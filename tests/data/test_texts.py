"""The normalizer, and splits that are stratified, seeded, leak-free and blind to file order."""

import hashlib

import numpy as np
import pytest

from sentiment_jax.data.texts import (
    KEPT,
    Texts,
    fold_splits,
    is_blank,
    normalize_text,
    stratified_sample,
    stratified_split,
)
from sentiment_jax.errors import InputError


def test_normalize_text():
    for raw, normal in (
        ("\ufeffGood.<br /><br />Bad.<BR>Ugly.<br/>", "Good. Bad. Ugly."),
        ("Tom &amp; Jerry &quot;live&quot; &eacute;", 'Tom & Jerry "live" é'),
        ("&lt;br /&gt;", ""),
        ("cafe\u0301", "café"),
        ("  a\u00a0b\t\r\nc\u3000d ", "a b c d"),
        ("I 😀 it \U0001f468\u200d\U0001f469", "I 😀 it \U0001f468\u200d\U0001f469"),
        ("x < y <b>bold</b>", "x < y <b>bold</b>"),
        ("broken \udcff byte", "broken ? byte"),
        ("word <br /> " * 100_000, " ".join(["word"] * 100_000)),
        ("", ""),
    ):
        assert normalize_text(raw) == normal
        normalize_text(raw).encode()  # nothing left that a hash or a tokenizer refuses


@pytest.mark.parametrize("piece", ["word ", "x", "😀", "&amp;\n\n"])
def test_endless_texts_are_cut_to_their_ends(piece):
    """Up to 2 million characters a text stays whole; of a longer one, both ends are kept."""
    longest = piece * (2 * KEPT // len(piece))
    assert normalize_text(longest) == " ".join(longest.replace("&amp;", "&").split())
    cut = normalize_text(f" {' ' * KEPT} First{longest} middle {longest}last\n ")
    assert len(cut) <= 2 * KEPT and normalize_text(cut) == cut
    assert cut.startswith("First") and cut.endswith("last") and "middle" not in cut


def test_is_blank():
    blank = ["", " \t\n", "\ufeff", "<br /><br />", "&nbsp;", "NaN", " nan "]
    assert all(map(is_blank, Texts.from_texts(blank).texts))
    assert not any(map(is_blank, ["0", "-", "nan bread", "😀", "none", "null"]))


def test_reviews_carry_normalized_texts_and_their_hashes():
    reviews = Texts.from_texts(["good &amp; bad<br />", "cafe\u0301"], [1, 0], ["row 2", "row 3"])
    texts = ("good & bad", "café")
    hashes = [hashlib.sha256(text.encode()).hexdigest().encode() for text in texts]
    assert (reviews.texts, reviews.hashes.tolist()) == (texts, hashes)
    last = reviews.take(np.array([1]))
    assert (last.ids, last.texts, last.labels.tolist()) == (("row 3",), ("café",), [[True, False]])
    assert last.hashes.tolist() == hashes[1:]
    unlabeled = Texts.from_texts(texts)
    assert unlabeled.ids == ("0", "1") and not unlabeled.labels.any()


def make_reviews(seed):
    """About 400 texts, many with one to three duplicates, 60 % of them positive."""
    rng = np.random.default_rng(seed)
    copies = rng.choice([1, 1, 1, 2, 4], 200)
    texts = np.repeat([f"text {seed} {i}" for i in range(200)], copies)
    labels = np.repeat(rng.random(200) < 0.6, copies)
    return Texts.from_texts(texts.tolist(), labels.astype(int).tolist())


def held_out_texts(reviews, split):
    """The texts held out; every text is on one side, its duplicates on the same."""
    kept, held_out = split
    assert sorted([*kept, *held_out]) == list(range(len(reviews)))
    texts = {reviews.texts[i] for i in held_out}
    assert texts.isdisjoint(reviews.texts[i] for i in kept)
    return texts


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_split_is_stratified_complete_and_free_of_leakage(seed, fraction):
    reviews = make_reviews(seed)
    split, other = (stratified_split(reviews, fraction, seed=seed + i) for i in (0, 1))
    assert held_out_texts(reviews, split) != held_out_texts(reviews, other)
    assert len(stratified_split(reviews, 0.0, seed=seed)[1]) == 0
    _, least = stratified_split(reviews, 1e-9, seed=seed)
    assert sorted(reviews.codes[least]) == [0, 1]
    wanted = fraction * np.bincount(reviews.codes)
    assert (np.abs(np.bincount(reviews.codes[split[1]]) - wanted) <= 1).all()


def test_a_share_is_rounded_to_the_nearest_number_of_a_class():
    reviews = Texts.from_texts([f"text {i}" for i in range(30)], [0] * 16 + [1] * 14)
    held_out = stratified_split(reviews, 0.1, seed=0)[1]
    assert np.bincount(reviews.codes[held_out]).tolist() == [2, 1]  # of 1.6 and 1.4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 5])
def test_folds_are_stratified_disjoint_and_blind_to_order(seed, count):
    reviews = make_reviews(seed)
    backwards = reviews.take(np.arange(len(reviews))[::-1])
    label_of = dict(zip(reviews.texts, reviews.codes.tolist(), strict=True))
    folds = [held_out_texts(reviews, fold) for fold in fold_splits(reviews, count, seed=seed)]
    again = fold_splits(backwards, count, seed=seed)
    assert [held_out_texts(backwards, fold) for fold in again] == folds and len(folds) == count
    assert sorted(text for texts in folds for text in texts) == sorted(label_of)
    wanted = np.bincount([*label_of.values()]) / count
    for texts in folds:
        assert (np.abs(np.bincount([label_of[text] for text in texts]) - wanted) < 1).all()
    other = fold_splits(reviews, count, seed=seed + 1)
    assert held_out_texts(reviews, other[0]) != folds[0]


def test_a_class_of_one_text_and_more_folds_than_texts_are_refused():
    texts = ["a", "b", "c", "d", "d", "d"]
    for labels, fraction, absent in (
        ([0, 0, 0, 1, 1, 1], 0.2, "3 positive"),
        ([0] * 6, 0.2, "0 positive"),
        ([0] * 6, 0.0, "0 positive"),
        ([1] * 6, 0.2, "0 negative"),
        ([1] * 6, 0.0, "0 negative"),
    ):
        with pytest.raises(InputError, match=f"^{absent} texts cannot be split: each class nee"):
            stratified_split(Texts.from_texts(texts, labels), fraction, seed=0)
    refused = "class '{}' needs two different texts of its own"
    for more, labels, name in (
        ([], [0, 0, 0, 1, 1, 1], "positive"),
        (["d"], [0, 0, 0, 0, 0, 0, 1], "positive"),  # which no fold without it would know
        (["a"], [1, 0, 0, 0, 0, 0, 0], "positive"),
        (["a", "e", "f"], [0, 1, 1, 1, 1, 1, 1, 1, 1], "negative"),
    ):
        reviews = Texts.from_texts(texts + more, labels)
        with pytest.raises(InputError, match=refused.format(name)):
            fold_splits(reviews, 2, seed=0)
    with pytest.raises(InputError, match="data.folds=5 needs 5 different texts, there are 4"):
        fold_splits(Texts.from_texts(texts, [0, 1] * 3), 5, seed=0)


def test_sample_is_stratified_seeded_nested_and_blind_to_order():
    reviews = make_reviews(1)
    chosen = {n: stratified_sample(reviews, count=n, seed=0) for n in (50, 101, 0, 9999)}
    assert len(chosen[50]) == 50 and len(chosen[101]) == 101
    assert set(chosen[50].ids) < set(chosen[101].ids)
    assert set(chosen[50].ids) != set(stratified_sample(reviews, count=50, seed=1).ids)
    assert abs(chosen[101].codes.sum() - 101 * reviews.codes.mean()) <= 1
    assert chosen[0].ids == chosen[9999].ids == reviews.ids
    backwards = stratified_sample(reviews.take(np.arange(len(reviews))[::-1]), count=50, seed=0)
    assert sorted(backwards.texts) == sorted(chosen[50].texts)
