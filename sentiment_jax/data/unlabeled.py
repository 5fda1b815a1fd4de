"""Text for pre-training: labels unread, and no review of validation or test among it."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import imdb_folder, reviews
from sentiment_jax.data.corpus import Corpus, describe, load_corpus
from sentiment_jax.data.imdb_tfds import read_tfds
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.table import read_table
from sentiment_jax.errors import InputError

KINDS = ("labeled", "unlabeled")
READERS: dict[str, Callable[[DataConfig], Reviews]] = {  # sources that have reviews without labels
    "tfds": lambda data: read_tfds(data.path, ["unsupervised"])[0],
    "folder": lambda data: imdb_folder.read_unlabeled(data.path),
}


def load_text(data: DataConfig, path: str = "", unlabeled: bool = True) -> Corpus:
    """Read the text to learn from (split train) and reviews to test that on (val).

    The text: the training reviews and, if asked for, unlabeled ones, the source's or those at a
    path of one's own, of equal ones the first. A review whose text is in validation or test,
    whatever the limits, is dropped; the statistics count what was `dropped`, and `labeled_hash` is
    the data_hash of a training that holds out the same reviews. The limit is of what is left; of
    labeled reviews alone, it keeps those that a training would.
    """
    whole = load_corpus(dataclasses.replace(data, limit=0, test_limit=0))
    labeled = load_corpus(data) if data.limit or data.test_limit else whole
    splits, limited = whole.splits, labeled.splits
    more = Reviews.from_texts([])
    if unlabeled and path:
        more = read_text(path, data.text_column)
    elif unlabeled and data.source in READERS:
        more = READERS[data.source](data)
    first = np.sort(np.unique(more.hashes, return_index=True)[1])
    copies, more = len(more) - len(first), more.take(first)
    parts = {name: _mark(split, 0) for name, split in splits.items()}
    own = parts["train"] if unlabeled else _mark(limited["train"], 0)
    train = _join(own, _mark(more, 1))
    blank = np.array([reviews.is_blank(text) for text in train.texts], bool)
    held_out = splits["val"].hashes, splits["test"].hashes, limited["val"].hashes
    held = np.isin(train.hashes, np.concatenate(held_out))
    dropped = {name: int(held[train.labels == i].sum()) for i, name in enumerate(KINDS)}
    dropped["copies"] = copies
    kept = train.take(np.flatnonzero(~(held | blank)))
    kept = reviews.stratified_sample(kept, count=data.limit, seed=data.split_seed)
    parts |= {"train": kept, "val": _mark(limited["val"], 0)}
    statistics = {"source": data.source, **describe(parts), "dropped": dropped}
    return Corpus(parts, {**statistics, "labeled_hash": labeled.statistics["data_hash"]})


def unlabeled_reviews(data: DataConfig, path: str = "") -> Reviews:
    """Return those reviews of `load_text` that have no label; InputError: there are none."""
    text = load_text(data, path).splits["train"]
    found = text.take(np.flatnonzero(text.labels == KINDS.index("unlabeled")))
    if not len(found):
        where = path or f"data.source={data.source}"
        raise InputError(f"data.unlabeled=True, but {where} has no reviews without labels")
    return found


def texts_hash(reviews: Reviews) -> str:
    """Return the sha256 of the texts in their order."""
    return hashlib.sha256(reviews.hashes.tobytes()).hexdigest()


def read_text(path: str, column: str) -> Reviews:
    """Read a table's column, a file of one text per line, or the .txt files of a folder."""
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            texts = {file.relative_to(root).as_posix(): _read(file, root) for file in _find(root)}
        else:
            table = read_table(reviews.regular(root).read_bytes(), path, [column], otherwise="")
            texts = {f"row {n}": text for n, (text,) in zip(table.rows, table.texts, strict=True)}
    except OSError as error:
        raise InputError(f"cannot read pretrain.text={path}: {error.strerror}") from None
    if not texts:
        raise InputError(f"pretrain.text={path} holds no text: a table, lines or .txt files")
    most = 2 * reviews.KEPT
    for name, text in texts.items():
        if len(text) > most:
            raise InputError(
                f"pretrain.text={path}: {name} has {len(text):,} characters, a text {most:,} at "
                "most: split it, or name one file, a text per line"
            )
    return Reviews.from_texts(texts.values(), ids=texts)


def _find(root: Path) -> list[Path]:
    return sorted(file for file in root.rglob("*.txt") if not file.name.startswith("."))


def _read(file: Path, root: Path) -> str:
    if not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(root)):
        raise InputError(f"{file} is a link out of {root}: put a copy in its place")
    return reviews.decode(reviews.regular(file).read_bytes(), str(file))


def _mark(split: Reviews, kind: int) -> Reviews:
    labels = np.full(len(split), kind, np.int32)
    return dataclasses.replace(split, labels=labels, classes=KINDS)


def _join(first: Reviews, second: Reviews) -> Reviews:
    hashes, labels = ([getattr(of, n) for of in (first, second)] for n in ("hashes", "labels"))
    ids, texts = first.ids + second.ids, first.texts + second.texts
    return Reviews(ids, texts, np.concatenate(hashes), np.concatenate(labels), KINDS)
