"""The one text normaliser, and stratified, seeded splits that keep identical texts together."""

import hashlib
import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from sentiment_jax.errors import InputError

LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)


def normalize_text(text: str) -> str:
    """Return the text as every mode sees it: no BOM, `<br />`, HTML entity or double space; NFC."""
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = LINE_BREAK.sub(" ", text)
    if not text.isascii():
        # Lone surrogates (a command line that is not UTF-8) can be neither hashed nor tokenised.
        text = text.encode("utf-8", "replace").decode("utf-8").replace("\ufeff", "")
        text = unicodedata.normalize("NFC", text)
    return " ".join(text.split())


def is_blank(text: str) -> bool:
    """Tell whether a cell holds no review: empty, white space, or a NaN that was written out."""
    return normalize_text(text).lower() in ("", "nan")


def text_hashes(texts: Sequence[str]) -> Shaped[np.ndarray, " reviews"]:
    """Return the sha256 of each (normalised) text as an array of 64-character byte strings."""
    digests = [hashlib.sha256(text.encode()).hexdigest().encode() for text in texts]
    return np.array(digests, dtype="S64")


def canonical_order(
    hashes: Shaped[np.ndarray, " reviews"], labels: Int32[np.ndarray, " reviews"]
) -> Int64[np.ndarray, " reviews"]:
    """Return the order (hash, label, occurrence), which does not depend on that of the files."""
    return np.lexsort((labels, hashes))


def stratified_split(
    hashes: Shaped[np.ndarray, " reviews"],
    labels: Int32[np.ndarray, " reviews"],
    *,
    fraction: float,
    seed: int,
    grouped: bool = True,
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Hold out a share of each class, and with it all copies of the texts that it contains.

    Args:
        hashes: of the texts; equal hashes stay on one side.
        labels: 0 or 1.
        fraction: share of each class to hold out, rounded to whole reviews, at least one.
        seed: another seed gives another choice.
        grouped: False splits single rows and lets copies fall on both sides (a leak, to study).

    Returns:
        Indices of the reviews kept and held out, both in canonical order.

    Raises:
        InputError: fraction not between 0 and 1, or a class with too few different texts.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the share of reviews to hold out is {fraction}: it must lie in (0, 1)")
    order = canonical_order(hashes, labels)
    keys = hashes[order] if grouped else np.arange(len(order))
    names, groups = np.unique(keys, return_inverse=True)
    counts = np.zeros((len(names), 2), np.int64)
    np.add.at(counts, (groups, labels[order]), 1)
    totals = counts.sum(axis=0)
    target = np.clip(np.round(fraction * totals).astype(np.int64), 1, np.maximum(totals - 1, 0))
    missing = target.copy()
    held = np.zeros(len(counts), bool)
    for group in np.random.default_rng(seed).permutation(len(counts)):
        if (counts[group] <= missing).all():
            held[group] = True
            missing -= counts[group]
    if not held.any() or (missing == target).any():
        raise InputError(
            f"{totals[0]} negative and {totals[1]} positive reviews cannot be split: "
            "each class needs two different texts or more"
        )
    held = held[groups]
    return order[~held], order[held]


def stratified_sample(
    hashes: Shaped[np.ndarray, " reviews"],
    labels: Int32[np.ndarray, " reviews"],
    *,
    count: int,
    seed: int,
) -> Int64[np.ndarray, " kept"]:
    """Choose `count` reviews with the classes in proportion; smaller counts choose a subset.

    Args:
        hashes: of the texts; they make the choice independent of the order of the files.
        labels: 0 or 1.
        count: how many to keep; 0, or more than there are, keeps all.
        seed: another seed gives another choice.

    Returns:
        Indices of the reviews kept, ascending.
    """
    if not 0 < count < len(labels):
        return np.arange(len(labels))
    positive = round(count * int(labels.sum()) / len(labels))
    order = np.random.default_rng(seed).permutation(canonical_order(hashes, labels))
    chosen = [order[labels[order] == 0][: count - positive], order[labels[order] == 1][:positive]]
    return np.sort(np.concatenate(chosen))


@dataclass(frozen=True)
class Reviews:
    """Texts with their labels (0 negative, 1 positive) and ids that lead back to the source."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]

    def __len__(self) -> int:
        """Return the number of reviews."""
        return len(self.ids)

    def take(self, indices: Int64[np.ndarray, " kept"]) -> "Reviews":
        """Return the reviews at these indices, in their order."""
        rows = indices.tolist()
        ids, texts = (tuple(values[i] for i in rows) for values in (self.ids, self.texts))
        return Reviews(ids, texts, self.labels[indices])
