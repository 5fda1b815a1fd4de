"""Unlabeled text, for pre-training and for students of a teacher, without any held-out text."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import Dataset, load_dataset, make_dataset
from sentiment_jax.data.imdb import read_folder, read_tfds
from sentiment_jax.data.table import read_table
from sentiment_jax.data.texts import (
    KEPT,
    TEXT_FILES,
    Texts,
    is_blank,
    read_files,
    stratified_sample,
)
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import regular

MOST_HELD_OUT = 5_000  # unlabeled texts
NOTHING = Texts.from_texts([])
KINDS = ("labeled", "unlabeled")
WITH_UNLABELED = {"tfds": read_tfds, "folder": read_folder}  # of the sources with unlabeled text


def load_text(
    data: DataConfig, path: str = "", unlabeled: bool = True, tested: bool = True
) -> Dataset:
    """Return the text to learn from (split train) and text to test the learning on (val).

    Train has the training texts and, if asked for, the unlabeled text of the source or at `path`,
    each text once; a training text that is also among it is learned twice. To prevent leakage, a
    text that is in validation or test, whatever the limits, is dropped, and counted as `dropped` in
    the statistics.

    If the learning is `tested` on unlabeled text, a twentieth of it, 50 to 5,000 texts and half of
    it at most, is held out for val. Without unlabeled text, val is a training run's, and the limit
    applies to the training texts that are left.
    """
    whole = load_dataset(replace(data, limit=0, test_limit=0))
    limited = load_dataset(data) if data.limit or data.test_limit else whole
    more = NOTHING
    if unlabeled and path:
        more = read_text(path, data)
    elif unlabeled and data.source in WITH_UNLABELED:
        (more,) = WITH_UNLABELED[data.source](data.path, ["unsupervised"])
    first = np.sort(np.unique(more.hashes, return_index=True)[1])
    train = _join((whole if unlabeled else limited).splits["train"], more.take(first))
    held_out = [whole.splits["val"], whole.splits["test"], limited.splits["val"]]
    leaked = np.isin(train.hashes, np.concatenate([split.hashes for split in held_out]))
    blank = np.array([is_blank(text) for text in train.texts], bool)
    kept = train.take(~leaked & ~blank)
    val = _join(limited.splits["val"])
    free = kept.take(kept.labels[:, KINDS.index("unlabeled")])
    if tested and len(free):
        few = max(1, min(max(len(free) // 20, 50), len(free) // 2, MOST_HELD_OUT))
        val = stratified_sample(free, count=few, seed=data.split_seed)
        kept = kept.take(~np.isin(kept.hashes, val.hashes))
    elif not len(free):
        kept = stratified_sample(kept, count=data.limit, seed=data.split_seed)
    dataset = make_dataset(data.source, train=kept, val=val, test=_join(whole.splits["test"]))
    dropped = {kind: int(leaked[train.labels[:, i]].sum()) for i, kind in enumerate(KINDS)}
    dataset.statistics["dropped"] = {**dropped, "duplicates": len(more) - len(first)}
    return dataset


def _join(labeled: Texts, unlabeled: Texts = NOTHING) -> Texts:
    return Texts(
        ids=labeled.ids + unlabeled.ids,
        texts=labeled.texts + unlabeled.texts,
        hashes=np.concatenate([labeled.hashes, unlabeled.hashes]),
        labels=np.repeat(np.eye(2, dtype=bool), [len(labeled), len(unlabeled)], axis=0),
        classes=KINDS,
    )


def unlabeled_texts(data: DataConfig, path: str = "") -> Texts:
    """Return the unlabeled text that `load_text` learns from; InputError: there is none."""
    text = load_text(data, path, tested=False).splits["train"]
    found = text.take(text.labels[:, KINDS.index("unlabeled")])
    if not len(found):
        where = path or f"data.source={data.source}"
        raise InputError(f"a teacher needs unlabeled text, but {where} has none: set pretrain.text")
    return found


def read_text(path: str, data: DataConfig) -> Texts:
    """Read a table's column, a file of one text per line, or the .txt files of a folder."""
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            texts = read_files(root, f"**/{TEXT_FILES}", data.encoding)
        else:
            raw = regular(root).read_bytes()
            table = read_table(raw, path, [data.text_column], data, otherwise="")
            texts = {f"row {n}": text for n, (text,) in zip(table.rows, table.texts, strict=True)}
    except OSError as error:
        raise InputError(f"cannot read pretrain.text={path}: {error.strerror}") from None
    for name, text in texts.items():
        if len(text) > 2 * KEPT:
            problem = f"{name} has {len(text):,} characters, a text {2 * KEPT:,} at most"
            raise InputError(f"pretrain.text={path}: {problem}: split it, or use a text per line")
    found = Texts.from_texts(texts.values(), ids=texts)
    if len({text for text in found.texts if re.search(r"\w", text)}) < 2:
        needed = "two different texts with words: a table, lines or .txt files"
        raise InputError(f"pretrain.text={path} does not hold {needed}")
    return found
