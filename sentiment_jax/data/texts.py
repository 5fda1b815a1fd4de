"""Texts, normalized and hashed once; stratified, seeded splits that keep duplicates together."""

import codecs
import contextlib
import hashlib
import html
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64, Integer, Shaped

from sentiment_jax.config.schema import CLASSES, FEW_CLASSES
from sentiment_jax.data.kinds import ONE_CLASS, LabelKind
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import regular

LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
LINE = re.compile(r"[^\r\n]++(?:\r\n?|\n)?|\r\n?|\n")
BINARY = {  # the first bytes of files that hold no text
    b"PK\x03\x04": "an Excel workbook or a zip archive",
    b"\x1f\x8b": "compressed (gzip)",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook of before 2007",
}
KEPT = 1_000_000  # characters at either end of a longer text: far more than any model reads
TEXT_FILES = "[!.]*.[tT][xX][tT]"  # hidden ones (macOS adds "._0_9.txt") are no texts
Split = tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"]]  # the indices kept and held out


def normalize_text(text: str) -> str:
    """Return the text as every mode sees it: no BOM, `<br />`, HTML entity or double space; NFC.

    Of more than 2 * KEPT characters, both ends stay: tokens take far more memory.
    """
    text = text.strip()
    if len(text) > 2 * KEPT:
        text = f"{text[: KEPT - 1]} {text[-KEPT:]}"
    text = LINE_BREAK.sub(" ", html.unescape(text)).replace("\ufeff", "")
    # Lone surrogates (a command line that is not UTF-8) can be neither hashed nor tokenized.
    text = text.encode("utf-8", "replace").decode()
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_files(root: Path, pattern: str, encoding: str | None = None) -> dict[str, str]:
    """Return name -> text of the files in a folder, by name.

    InputError: a file can't be read, or is behind a link that leads out of the folder.
    """
    files = sorted(root.glob(pattern))
    inside = os.path.realpath(root)
    for path in [*dict.fromkeys(file.parent for file in files), *filter(Path.is_symlink, files)]:
        if not Path(os.path.realpath(path)).is_relative_to(inside):
            raise InputError(f"{path} is a link out of {root}: put a copy in its place")
    texts = {}
    try:
        for file in files:
            raw = regular(file).read_bytes()
            texts[file.relative_to(root).as_posix()] = decode(raw, str(file), encoding)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}") from None
    return texts


def decode(raw: bytes, name: str, encoding: str | None = None) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark, or else data.encoding (None: it has none).

    Of ASCII bytes, as iso2022_jp's, it says more than UTF-8. InputError names the line at fault.
    """
    for first, kind in BINARY.items():
        if raw.startswith(first):
            raise InputError(f"{name} is {kind}: unpack it, or save it as a CSV file in UTF-8")
    with contextlib.suppress(LookupError, UnicodeError):
        if encoding and raw.isascii() and "a".encode(encoding) == b"a":  # not UTF-16
            return raw.decode(encoding)
    codec = "UTF-16" if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "UTF-8-SIG"
    try:
        before, nul, _ = raw.decode(codec).partition("\0")
        if not nul:
            return before
        problem = "a NUL byte, as in UTF-16 without a byte order mark"
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode(codec)
        problem = f"byte 0x{error.object[error.start]:02x} is not {codec.removesuffix('-SIG')}"
    if encoding:
        try:
            return raw.decode(encoding)
        except (LookupError, UnicodeError):  # unknown, or another one
            problem += f" nor data.encoding={encoding}"
    line = sum(1 for _ in lines(before + "?"))
    other = "" if encoding is None else ", or train with --config.data.encoding=cp1252 (Latin-1)"
    raise InputError(f"{name}, line {line}: {problem}: save it as UTF-8{other}")


def lines(text: str) -> Iterator[str]:
    """Yield the lines of an editor; str.splitlines also ends one at a form feed or U+2028."""
    return (match[0] for match in LINE.finditer(text))


def first_five(names: Sequence[str]) -> str:
    """List at most five names in a message, and say how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def list_classes(names: Sequence[str]) -> str:
    """List the classes if they are ten at most; else five, and say how many more there are."""
    return ", ".join(names) if len(names) <= FEW_CLASSES else first_five(names)


def is_blank(text: str) -> bool:
    """Return whether a normalized text is empty, or a NaN that was written as text."""
    return text.lower() in ("", "nan")


@dataclass(frozen=True)
class Texts:
    """Normalized texts, the sha256 of each in hex, ids that name the source, labels.

    The labels say of each text which classes it has: none if it is unlabeled.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    hashes: Shaped[np.ndarray, " texts"]
    labels: Bool[np.ndarray, "texts classes"]
    classes: tuple[str, ...] = CLASSES
    named: bool = False  # whether the source names them; else its labels are 0 and 1
    kind: LabelKind = ONE_CLASS

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        labels: Sequence[int] | Bool[np.ndarray, "texts classes"] = (),
        ids: Iterable[str] = (),
        classes: tuple[str, ...] = CLASSES,
        named: bool = False,
        kind: LabelKind = ONE_CLASS,
    ) -> "Texts":
        """Normalize and hash raw texts; labels may be class numbers, ids default to numbers."""
        normal = tuple(map(normalize_text, texts))
        digests = [hashlib.sha256(text.encode()).hexdigest().encode() for text in normal]
        given = np.array(labels) if len(labels) else np.full(len(normal), -1)
        return cls(
            ids=tuple(ids) or tuple(map(str, range(len(normal)))),
            texts=normal,
            hashes=np.array(digests, "S64"),
            labels=given if given.ndim == 2 else of_numbers(given, len(classes)),
            classes=classes,
            named=named,
            kind=kind,
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def texts_hash(self) -> str:
        """The sha256 of the texts in their order."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest()

    @property
    def codes(self) -> Int32[np.ndarray, "texts *labels"]:
        """The class number of each text, or a 0 or 1 per label."""
        return self.kind.codes(self.labels)

    @property
    def rare(self) -> bool:
        """Whether a class has less than half of an even share; never of multi-label texts."""
        return not self.kind.multi_label and is_rare(self.labels.sum(axis=0))

    @property
    def strata(self) -> Int64[np.ndarray, " texts"]:
        """A number per text, in the order of the labels, that equal labels have in common."""
        return np.unique(self.codes, axis=0, return_inverse=True)[1].ravel()

    def take(self, indices: Int64[np.ndarray, " kept"] | Bool[np.ndarray, " texts"]) -> "Texts":
        """Return the texts at these indices, in their order, or of a mask."""
        rows = np.arange(len(self))[indices].tolist()
        return replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            texts=tuple(self.texts[i] for i in rows),
            hashes=self.hashes[indices],
            labels=self.labels[indices],
        )


def of_numbers(
    numbers: Integer[np.ndarray, " texts"], classes: int
) -> Bool[np.ndarray, "texts classes"]:
    """Return the labels of texts of these class numbers; -1 stands for an unlabeled text."""
    return numbers[:, None] == np.arange(classes)


def is_rare(counts: Int64[np.ndarray, " classes"]) -> bool:
    """Whether the smallest class has less than half of an even share of the texts."""
    return bool(2 * len(counts) * counts.min() < counts.sum())


def stratified_split(texts: Texts, fraction: float, *, seed: int, grouped: bool = True) -> Split:
    """Hold out a share of each class, and with each text all its duplicates.

    The share, in (0, 1), is rounded to whole texts of a class, at least one; 0 holds out none.
    Ungrouped, duplicates fall on both sides (leakage, for comparison). Both returned indices are in
    the order of hash, label and occurrence. InputError: a class has too few different texts.
    """
    order, groups, counts = _group(texts, grouped)
    number = len(counts)
    totals = counts.sum(axis=0)
    target = np.clip(np.round(fraction * totals), int(fraction > 0), np.maximum(totals - 1, 0))
    if texts.kind.multi_label:
        held_out = _distribute(counts, np.array([totals - target, target]), seed) == 1
        short = (counts > 0).sum(axis=0) < 1 + (fraction > 0)
    else:
        missing = target
        held_out = np.zeros(number, bool)
        for group in np.random.default_rng(seed).permutation(number):
            if (counts[group] <= missing).all():
                held_out[group] = True
                missing = missing - counts[group]
        short = missing == target if fraction else totals == 0
    if short.any():
        named = zip(totals, texts.classes, short, strict=False)
        found = first_five([f"{total} {name}" for total, name, fails in named if fails])
        raise InputError(f"{found} texts cannot be split: each class needs two different texts")
    rows = held_out[groups]
    return order[~rows], order[rows]


def fold_splits(texts: Texts, count: int, *, seed: int, grouped: bool = True) -> list[Split]:
    """Hold out each of `count` folds in turn: classes in proportion, duplicates together.

    Proportions are of different texts. Order and `grouped` are those of `stratified_split`.
    InputError: fewer texts than folds, or all of a class in one fold.
    """
    order, groups, counts = _group(texts, grouped)
    number = len(counts)
    if number < count:
        raise InputError(f"data.folds={count} needs {count} different texts, there are {number}")
    if texts.kind.multi_label:
        fold = _distribute(counts, np.tile(counts.sum(axis=0) / count, (count, 1)), seed)
    else:
        label = np.zeros(number, np.int32)
        label[groups] = texts.codes[order]
        shuffled = np.random.default_rng(seed).permutation(number)
        fold = np.zeros(number, np.int64)
        fold[shuffled[np.argsort(label[shuffled], kind="stable")]] = np.arange(number) % count
    fold_of = fold[groups]
    for name, members in zip(texts.classes, texts.labels[order].T, strict=True):
        if len(np.unique(fold_of[members])) == 1:
            raise InputError(f"data.folds: class {name!r} needs two different texts of its own")
    return [(order[fold_of != number], order[fold_of == number]) for number in range(count)]


def _group(
    texts: Texts, grouped: bool
) -> tuple[Int64[np.ndarray, " texts"], Int64[np.ndarray, " texts"], Int64[np.ndarray, "groups _"]]:
    """Return an order by hash and label, the place of each text in it, and counts.

    These are of each text's copies: in each class, and of multi-label texts also in all.
    """
    order = np.lexsort((texts.strata, texts.hashes))
    keys = texts.hashes[order] if grouped else np.arange(len(order))
    groups = np.unique(keys, return_inverse=True)[1]
    members = texts.labels[order]
    if texts.kind.multi_label:
        members = np.column_stack([members, np.ones(len(order), bool)])
    counts = np.zeros((groups.max(initial=-1) + 1, members.shape[1]), np.int64)
    np.add.at(counts, groups, members)
    return order, groups, counts


def _distribute(
    counts: Int64[np.ndarray, "groups columns"],
    wanted: Float64[np.ndarray, "parts columns"],
    seed: int,
) -> Int64[np.ndarray, " groups"]:
    """Return the part of each text: iterative stratification (Sechidis et al., 2011).

    The rarest label's texts come first. Each goes to the part that wants most of that label, or of
    equal parts to the one that wants most texts, whose number is the last column.
    """
    wanted = wanted.copy()
    shuffled = np.random.default_rng(seed).permutation(len(counts))
    part = np.full(len(counts), -1)
    while (part < 0).any():
        left = counts[part < 0].sum(axis=0)
        label = np.argmin(np.where(left > 0, left, left.max() + 1))
        for text in shuffled[(part[shuffled] < 0) & (counts[shuffled, label] > 0)]:
            part[text] = np.lexsort((wanted[:, -1], wanted[:, label]))[-1]
            wanted[part[text]] -= counts[text]
    return part


def stratified_sample(texts: Texts, *, count: int, seed: int) -> Texts:
    """Choose `count` texts, classes in proportion; a smaller count chooses a subset of a larger.

    The choice does not depend on the order of the texts, which is kept. A count of 0, or of more
    than there are, keeps all.
    """
    if not 0 < count < len(texts):
        return texts
    strata = texts.strata
    order = np.random.default_rng(seed).permutation(np.lexsort((strata, texts.hashes)))
    left = count
    size = len(order)
    chosen = []
    for stratum in reversed(range(strata.max() + 1)):
        rows = order[strata[order] == stratum]
        taken = round(left * len(rows) / max(size, 1))
        chosen.append(rows[:taken])
        left -= taken
        size -= len(rows)
    return texts.take(np.sort(np.concatenate(chosen)))
