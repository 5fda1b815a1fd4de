"""Unlabeled text: where it is read, and that no held-out text is among it."""

import dataclasses

import pytest
import reviews

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.unlabeled import load_text, read_text, unlabeled_texts

ROWS = [(f"Number {i}, good or bad.", i % 2) for i in range(60)]
OWN = ["Nor this.", "Not seen before.", "Nor this."]


@pytest.fixture
def data(tmp_path):
    """60 labeled texts, 12 of them for validation, one in the test file, too."""
    return reviews.write_data(tmp_path, ROWS, test=[ROWS[3], ("Another one.", 0)])


@pytest.mark.parametrize("limit", [0, 30])
def test_held_out_reviews_are_not_learned_from(data, tmp_path, limit):
    splits = load_dataset(data).splits
    held_out = splits["val"].texts + splits["test"].texts
    assert ROWS[3][0] in splits["train"].texts
    train = tuple(text for text in splits["train"].texts if text != ROWS[3][0])
    spaced = (line.replace(" ", " <br />  ") for line in held_out)
    text = tmp_path / "own.txt"
    text.write_text("\n".join([*OWN, "", *spaced, train[0]]))
    data = dataclasses.replace(data, limit=limit)
    val = load_dataset(data).splits["val"].texts
    in_train = len({*val} & {*train})
    assert (in_train > 0) == (limit > 0)
    dataset = load_text(data, str(text))
    dropped = {"labeled": 1 + in_train, "unlabeled": len(held_out), "duplicates": 1}
    assert dataset.statistics["dropped"] == dropped
    shared = dataset.statistics["shared"]
    assert shared["train_val"] == shared["train_test"] == 0
    learned = dataset.splits["train"].texts
    assert {*learned}.isdisjoint(held_out + val)
    # in the order of the sources, the first of duplicates, but for the one that is held out
    (tested,) = dataset.splits["val"].texts
    given = [name for name in (*train, *OWN[:2], train[0]) if name not in {*val} - {*held_out}]
    assert learned == tuple(name for name in given if name != tested)
    assert tested in given[-3:]
    assert unlabeled_texts(data, str(text)).texts == tuple(given[-3:])
    counts = dataset.statistics["counts"]["train"]
    assert counts["labeled"] + counts["unlabeled"] == len(learned)


@pytest.mark.parametrize("limits", [{}, {"limit": 30}, {"test_limit": 1}])
def test_without_unlabeled_text_nothing_else_is_read(data, tmp_path, limits):
    whole = load_dataset(data).splits
    data = dataclasses.replace(data, **limits)
    limited = load_dataset(data)
    train = limited.splits["train"].texts
    trained = {*train} - {*whole["val"].texts, *whole["test"].texts}
    alone = load_text(data, str(tmp_path / "never read"), unlabeled=False)
    assert sorted(alone.splits["train"].texts) == sorted(trained)
    assert alone.statistics["dropped"]["labeled"] == len(train) - len(trained)
    assert alone.statistics["counts"]["train"]["unlabeled"] == 0


def test_own_text_is_a_table_lines_or_a_folder(tmp_path):
    table = reviews.write_csv(tmp_path / "own.csv", [("One.", "x"), ("Two.", "y")], ("body", "z"))
    assert read_text(table, DataConfig(text_column="body")).texts == ("One.", "Two.")
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    texts = {"b.txt": "Two\nlines.", "c.TXT": "Three.", "a.txt": "One."}
    for name, text in {**texts, "._a.txt": "\0", "d": "-"}.items():
        (folder / name).write_text(text)
    found = read_text(str(folder.parent), DataConfig())
    assert found.ids == ("inner/a.txt", "inner/b.txt", "inner/c.TXT")
    assert found.texts == ("One.", "Two lines.", "Three.")


def test_text_that_is_absent_or_cannot_be_read_is_refused(data, tmp_path):
    reviews.refuses("needs unlabeled text, but data.source=csv has none", unlabeled_texts, data)
    for name in ("linked", "texts", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "linked/a.txt").symlink_to(reviews.write_csv(tmp_path / "a.csv", []))
    (tmp_path / "texts/a.txt").write_text("so " * 700_000)
    for name, expected in (
        ("linked", "a.txt is a link out of"),
        ("nowhere", "cannot read pretrain.text=.*nowhere: No such file"),
        ("texts", "a.txt has 2,100,000 characters, .* 2,000,000 at"),
        ("texts/a.txt", "row 1 has 2,100,000 characters, .* 2,000,000 at"),
        ("empty", "pretrain.text=.*empty does not hold two different texts with words: a table"),
    ):
        reviews.refuses(expected, read_text, f"{tmp_path}/{name}", DataConfig())


@pytest.mark.parametrize(
    "text", ["", "one line of text\n", "again  and\nagain and\n" * 9, "...\n?!\n", "\n \n\t\n"]
)
def test_text_to_learn_from_has_two_texts_with_words(text, tmp_path):
    """Of fewer, none is left to test on; a training went on for ever, or ended in a traceback."""
    path = tmp_path / "own.txt"
    path.write_text(text)
    reviews.refuses(
        "own.txt does not hold two different texts with words", read_text, str(path), DataConfig()
    )
