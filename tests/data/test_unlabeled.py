"""Unlabeled text: where it is read, and that no held-out review is among it."""

import dataclasses

import pytest
import reviews

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.unlabeled import load_text, read_text, unlabeled_reviews
from sentiment_jax.errors import InputError


@pytest.fixture
def data(tmp_path):
    """60 labeled reviews; 12 are held out for the test and 10 for validation."""
    rows = [(f"Review number {i}, good or bad.", i % 2) for i in range(60)]
    path = reviews.write_csv(tmp_path / "labeled.csv", rows)
    return DataConfig(source="csv", path=path)


@pytest.mark.parametrize("limit", [0, 30])
def test_held_out_reviews_are_not_learned_from(data, tmp_path, limit):
    """However it is spaced, and whichever a limit would hold out."""
    data = dataclasses.replace(data, limit=limit)
    splits = load_corpus(dataclasses.replace(data, limit=0)).splits
    held_out = [*splits["val"].texts, *splits["test"].texts]
    own = ["Not seen before.", "Nor this.", "Nor this."]
    text = tmp_path / "own.txt"
    spaced = (line.replace(" ", " <br />  ") for line in held_out)
    text.write_text("\n".join([*own, "", *spaced, splits["train"].texts[0]]))
    corpus = load_text(data, str(text))
    val = {*load_corpus(data).splits["val"].texts}
    in_train = len(val & {*splits["train"].texts})
    assert (in_train > 0) == (limit > 0)
    dropped = {"labeled": in_train, "unlabeled": len(held_out), "duplicates": 1}
    assert corpus.statistics["dropped"] == dropped
    assert corpus.statistics["shared"] == {"train_val": 0, "train_test": 0, "val_test": 0}
    learned = corpus.splits["train"].texts
    assert not {*learned} & ({*held_out} | val)
    if limit:
        assert len(learned) == limit
    else:
        extra = ["Not seen before.", "Nor this.", splits["train"].texts[0]]
        assert sorted(learned) == sorted([*splits["train"].texts, *extra])
    counts = corpus.statistics["counts"]["train"]
    assert counts["labeled"] + counts["unlabeled"] == len(learned)


def test_a_held_out_review_that_is_in_train_too_is_dropped(data, tmp_path):
    """`group_duplicates` keeps duplicates together; a test file of one's own does not."""
    rows = [("Review number 3, good or bad.", 1), ("Another one.", 0)]
    test = reviews.write_csv(tmp_path / "test.csv", rows)
    corpus = load_text(dataclasses.replace(data, test_path=test))
    in_train = "Review number 3, good or bad." not in corpus.splits["val"].texts
    assert corpus.statistics["dropped"]["labeled"] == in_train
    assert "Review number 3, good or bad." not in corpus.splits["train"].texts


def test_unlabeled_reviews_are_neither_labeled_nor_held_out(data, tmp_path):
    splits = load_corpus(data).splits
    text = tmp_path / "own.txt"
    text.write_text("\n".join(["Not seen before.", *splits["val"].texts, *splits["test"].texts]))
    assert unlabeled_reviews(data, str(text)).texts == ("Not seen before.",)
    with pytest.raises(InputError, match="needs unlabeled text, but data.source=csv has none"):
        unlabeled_reviews(data)


@pytest.mark.parametrize("limits", [{}, {"limit": 30}, {"test_limit": 5}])
def test_without_unlabeled_text_nothing_else_is_read(data, tmp_path, limits):
    data = dataclasses.replace(data, **limits)
    alone = load_text(data, str(tmp_path / "never read"), unlabeled=False)
    assert alone.statistics["labeled_hash"] == load_corpus(data).statistics["data_hash"]
    whole = load_corpus(dataclasses.replace(data, limit=0, test_limit=0)).splits
    held_out = {*whole["val"].texts, *whole["test"].texts}
    train = load_corpus(data).splits["train"].texts
    trained = [text for text in train if text not in held_out]
    assert sorted(alone.splits["train"].texts) == sorted(trained)
    assert alone.statistics["dropped"]["labeled"] == len(train) - len(trained)
    assert alone.statistics["counts"]["train"]["unlabeled"] == 0


def test_own_text_is_a_table_lines_or_a_folder(tmp_path):
    table = reviews.write_csv(tmp_path / "own.csv", [("One.", "x"), ("Two.", "y")], ("body", "z"))
    assert read_text(table, "body").texts == ("One.", "Two.")
    folder = tmp_path / "folder" / "inner"
    folder.mkdir(parents=True)
    for name, text in {"b.txt": "Two\nlines.", "a.txt": "One.", "._a.txt": "\0", "c": "-"}.items():
        (folder / name).write_text(text)
    found = read_text(str(folder.parent), "body")
    assert (found.ids, found.texts) == (("inner/a.txt", "inner/b.txt"), ("One.", "Two lines."))
    (folder / "d.txt").symlink_to(table)
    with pytest.raises(InputError, match=r"d.txt is a link out of .*: put a copy in its place"):
        read_text(str(folder.parent), "body")
    with pytest.raises(InputError, match="cannot read pretrain.text=.*nowhere: No such file"):
        read_text(str(tmp_path / "nowhere"), "body")
    (folder / "d.txt").unlink()
    (folder / "a.txt").write_text("so " * 700_000)
    for path, name in {folder: "a.txt", folder / "a.txt": "row 1"}.items():
        with pytest.raises(InputError, match=f"{name} has 2,100,000 characters, .* 2,000,000 at"):
            read_text(str(path), "body")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="pretrain.text=.*empty holds no text"):
        read_text(str(tmp_path / "empty"), "body")
