"""Reviews, normalised and hashed once; stratified, seeded splits that keep copies together."""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
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
    """Tell whether a normalised text is no review: nothing, or a NaN that was written out."""
    return text.lower() in ("", "nan")


@dataclass(frozen=True)
class Reviews:
    """Normalised texts, the sha256 of each in hex, labels (0, 1), and ids that name the source."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    hashes: Shaped[np.ndarray, " reviews"]
    labels: Int32[np.ndarray, " reviews"]

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        labels: Sequence[int] | None = None,
        ids: Iterable[str] | None = None,
    ) -> "Reviews":
        """Normalise and hash texts, in every mode, as soon as they are read.

        Args:
          texts: raw.
          labels: 0 for negative, 1 for positive; None where they are unknown, and 0 is stored.
          ids: None numbers the texts from 0.
        """
        normal = tuple(map(normalize_text, texts))
        digests = [hashlib.sha256(text.encode()).hexdigest().encode() for text in normal]
        return cls(
            ids=tuple(map(str, range(len(normal))) if ids is None else ids),
            texts=normal,
            hashes=np.array(digests, "S64"),
            labels=np.array([0] * len(normal) if labels is None else labels, np.int32),
        )

    def __len__(self) -> int:
        """Return the number of reviews."""
        return len(self.ids)

    def take(self, indices: Int64[np.ndarray, " kept"]) -> "Reviews":
        """Return the reviews at these indices, in their order."""
        rows = indices.tolist()
        ids, texts = (tuple(values[i] for i in rows) for values in (self.ids, self.texts))
        return Reviews(ids, texts, self.hashes[indices], self.labels[indices])

    def canonical_order(self) -> Int64[np.ndarray, " reviews"]:
        """Return the order by hash, label and occurrence, whatever that of the files."""
        return np.lexsort((self.labels, self.hashes))


def stratified_split(
    reviews: Reviews, *, fraction: float, seed: int, grouped: bool = True
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Hold out a share of each class, and with it all copies of the texts that it contains.

    Args:
      reviews: with labels 0 and 1.
      fraction: share of each class to hold out, rounded to whole reviews, at least one.
      seed: another seed gives another choice.
      grouped: False splits single rows and lets copies fall on both sides (a leak, for comparison).

    Returns:
      Indices of the reviews kept and held out, both in canonical order.

    Raises:
      InputError: fraction not between 0 and 1, or a class with too few different texts.
    """
    if not 0 < fraction < 1:
        raise InputError(f"the share of reviews to hold out is {fraction}: it must lie in (0, 1)")
    order = reviews.canonical_order()
    keys = reviews.hashes[order] if grouped else np.arange(len(order))
    names, groups = np.unique(keys, return_inverse=True)
    counts = np.zeros((len(names), 2), np.int64)
    np.add.at(counts, (groups, reviews.labels[order]), 1)
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


def stratified_sample(reviews: Reviews, *, count: int, seed: int) -> Reviews:
    """Choose `count` reviews, classes in proportion; a smaller count chooses a subset of a larger.

    Args:
      reviews: in any order, which the choice does not depend on.
      count: how many to keep; 0, or more than there are, keeps all.
      seed: another seed gives another choice.

    Returns:
      The reviews kept, in their order.
    """
    if not 0 < count < len(reviews):
        return reviews
    order = np.random.default_rng(seed).permutation(reviews.canonical_order())
    labels = reviews.labels[order]
    positive = round(count * int(labels.sum()) / len(labels))
    chosen = [order[labels == 0][: count - positive], order[labels == 1][:positive]]
    return reviews.take(np.sort(np.concatenate(chosen)))
