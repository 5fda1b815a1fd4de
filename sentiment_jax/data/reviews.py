"""Reviews, normalized and hashed once; stratified, seeded splits that keep copies together."""

import codecs
import errno
import hashlib
import html
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64, Shaped

from sentiment_jax.config.schema import CLASSES
from sentiment_jax.errors import InputError

LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
LINE = re.compile(r"[^\r\n]++(?:\r\n?|\n)?|\r\n?|\n")
KEPT = 1_000_000  # characters at either end of a longer text: far more than any model reads


def normalize_text(text: str) -> str:
    """Return the text as every mode sees it: no BOM, `<br />`, HTML entity or double space; NFC.

    Of more than 2 * KEPT characters the whole words at both ends stay: tokens take far more memory.
    """
    text = text.strip()
    if len(text) > 2 * KEPT:
        head, tail = text[:KEPT].rsplit(maxsplit=1), text[-KEPT:].split(maxsplit=1)
        # An endless word stays one.
        text = (" " if len(head) + len(tail) > 2 else "").join((head[0], tail[-1]))
    text = LINE_BREAK.sub(" ", html.unescape(text)).replace("\ufeff", "")
    # Lone surrogates (a command line that is not UTF-8) can be neither hashed nor tokenized.
    text = text.encode("utf-8", "replace").decode()
    return " ".join(unicodedata.normalize("NFC", text).split())


def regular(path: Path, *, pipe: bool = False) -> Path:
    """Return a path to read to its end; OSError for a socket, a device or (if no `pipe`) a FIFO."""
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind not in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFIFO if pipe else None):
        raise OSError(errno.EINVAL, "it is a FIFO, socket or device, not a file", str(path))
    return path


def find_encoding(raw: bytes) -> str:
    """Return UTF-16 where a byte order mark says so, or else UTF-8, whose mark is optional."""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "UTF-16" if wide else "UTF-8-SIG"


def decode(raw: bytes, name: str, position: Callable[[str], str] | None = None) -> str:
    """Decode text; `position` tells where it fails, given the text before, or else a line does."""
    encoding = find_encoding(raw)
    try:
        before, nul, _ = raw.decode(encoding).partition("\0")
        if not nul:
            return before
        what = "a NUL byte, as in UTF-16 without a byte order mark"
    except UnicodeDecodeError as error:
        before, byte = error.object[: error.start].decode(encoding), error.object[error.start]
        what = f"byte 0x{byte:02x} is not {encoding.removesuffix('-SIG')}"
    where = position(before) if position else f"line {sum(1 for _ in lines(before + '?'))}"
    raise InputError(f"{name}, {where}: {what}: save it as UTF-8")


def lines(text: str) -> Iterator[str]:
    """Yield the lines of an editor; str.splitlines also ends one at a form feed or U+2028."""
    return (match[0] for match in LINE.finditer(text))


def first_five(names: Sequence[str]) -> str:
    """List at most five names in a message, and say how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def is_blank(text: str) -> bool:
    """Tell whether a normalized text is no review: nothing, or a NaN that was written out."""
    return text.lower() in ("", "nan")


@dataclass(frozen=True)
class Reviews:
    """Normalized texts, the sha256 of each in hex, ids that name the source, labels from 0."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    hashes: Shaped[np.ndarray, " reviews"]
    labels: Int32[np.ndarray, " reviews"]
    classes: tuple[str, ...] = CLASSES  # the labels' names

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        labels: Sequence[int] = (),
        ids: Iterable[str] = (),
        classes: tuple[str, ...] = CLASSES,
    ) -> "Reviews":
        """Normalize and hash raw texts; labels default to 0, ids to numbers from 0."""
        normal = tuple(map(normalize_text, texts))
        digests = [hashlib.sha256(text.encode()).hexdigest().encode() for text in normal]
        return cls(
            ids=tuple(ids) or tuple(map(str, range(len(normal)))),
            texts=normal,
            hashes=np.array(digests, "S64"),
            labels=np.array(labels or [0] * len(normal), np.int32),
            classes=classes,
        )

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Int64[np.ndarray, " kept"]) -> "Reviews":
        """Return the reviews at these indices, in their order."""
        rows = indices.tolist()
        ids, texts = (tuple(values[i] for i in rows) for values in (self.ids, self.texts))
        return Reviews(ids, texts, self.hashes[indices], self.labels[indices], self.classes)


def stratified_split(
    reviews: Reviews, fraction: float, *, seed: int, grouped: bool = True
) -> tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held"]]:
    """Hold out a share of each class, and with it all copies of the texts that it contains.

    The share, in (0, 1), is rounded to whole reviews of a class, at least one; 0 holds out none.
    Ungrouped, copies fall on both sides (a leak, for comparison). Both returned indices are in the
    order of hash, label and occurrence. InputError: a class has too few different texts.
    """
    order = np.lexsort((reviews.labels, reviews.hashes))
    keys = reviews.hashes[order] if grouped else np.arange(len(order))
    names, groups = np.unique(keys, return_inverse=True)
    classes = len(reviews.classes)
    cells = groups * classes + reviews.labels[order]
    counts = np.bincount(cells, minlength=len(names) * classes).reshape(-1, classes)  # per text
    totals = counts.sum(axis=0)
    least, most = int(fraction > 0), np.maximum(totals - 1, 0)
    target = np.clip(np.round(fraction * totals).astype(np.int64), least, most)
    missing, held = target, np.zeros(len(counts), bool)
    for group in np.random.default_rng(seed).permutation(len(counts)):
        if (counts[group] <= missing).all():
            held[group] = True
            missing = missing - counts[group]
    short = missing == target if fraction else totals == 0
    if short.any():
        named = zip(totals, reviews.classes, short, strict=True)
        found = [f"{total} {name}" for total, name, fails in named if fails or classes == 2]
        what = f"{' and '.join(found)} reviews cannot be split"
        raise InputError(f"{what}: each class needs two different texts or more")
    held = held[groups]
    return order[~held], order[held]


def stratified_sample(reviews: Reviews, *, count: int, seed: int) -> Reviews:
    """Choose `count` reviews, classes in proportion; a smaller count chooses a subset of a larger.

    The choice does not depend on the order of the reviews, which is kept. A count of 0, or of more
    than there are, keeps all.
    """
    if not 0 < count < len(reviews):
        return reviews
    order = np.random.default_rng(seed).permutation(np.lexsort((reviews.labels, reviews.hashes)))
    labels, left, size, chosen = reviews.labels[order], count, len(order), []
    for label in reversed(range(len(reviews.classes))):
        rows = order[labels == label]
        taken = round(left * len(rows) / max(size, 1))
        chosen.append(rows[:taken])
        left, size = left - taken, size - len(rows)
    return reviews.take(np.sort(np.concatenate(chosen)))
