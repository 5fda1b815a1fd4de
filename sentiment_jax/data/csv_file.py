"""Reviews in CSV and TSV files: cells, labels, and a test set from a second file or the same."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sentiment_jax.config import DataConfig
from sentiment_jax.data import reviews
from sentiment_jax.data.labels import number_labels
from sentiment_jax.data.reviews import Reviews, lines
from sentiment_jax.errors import InputError

DELIMITERS = {".csv": ",", ".tsv": "\t"}  # by the end of a table's name, in any case


def read_csv_reviews(data: DataConfig) -> tuple[Reviews, Reviews]:
    """Return the reviews of data.path and data.test_path, or hold out a share of data.path."""
    rows = _read_file(data.path, data)
    tested = _read_file(data.test_path, data, prefix="test ") if data.test_path else []
    ids, texts, labels = zip(*rows, *tested, strict=True)
    numbers, classes = number_labels(labels, ids, data)
    everything = Reviews.from_texts(texts, numbers.tolist(), ids, classes)
    kept = np.flatnonzero(numbers >= 0)
    pool = everything.take(kept[kept < len(rows)])
    if data.test_path:
        return pool, everything.take(kept[kept >= len(rows)])
    kept, held = reviews.stratified_split(
        pool, data.test_fraction, seed=data.split_seed, grouped=data.group_duplicates
    )
    return pool.take(np.sort(kept)), pool.take(np.sort(held))


def _read_file(path: str, data: DataConfig, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return id, text and label of each row."""
    try:
        raw = reviews.regular(Path(path).expanduser()).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the CSV file {path}: {error.strerror}") from None
    rows, cells = read_csv(raw, path, (data.text_column, data.label_column))
    if not rows:
        raise InputError(f"{path} has a header but no reviews")
    return [
        (f"{prefix}row {row}", text, label) for row, (text, label) in zip(rows, cells, strict=True)
    ]


def find_delimiter(raw: bytes, name: str, columns: Sequence[str]) -> str:
    """Return what separates a table's cells, by its header or else its name; "": it is no table."""
    usual = DELIMITERS.get(Path(name).suffix.lower(), "")
    header = raw[:10_000].decode(reviews.find_encoding(raw), "replace").splitlines()[:1]
    for delimiter in filter(None, (usual, *DELIMITERS.values(), ";")):
        if {*columns} <= {*next(csv.reader(header, delimiter=delimiter), [])}:
            return delimiter
    return usual


def read_csv(raw: bytes, name: str, columns: Sequence[str]) -> tuple[list[int], list[list[str]]]:
    """Return row numbers (the header is 1) and the columns' cells; errors call the file `name`.

    A file's only column is the one wanted, whatever its header.
    """
    csv.field_size_limit(2**31 - 1)  # The default refuses reviews over 128 KiB.
    text = reviews.decode(
        raw, name, lambda before: f"row {sum(1 for _ in csv.reader(lines(before + '?')))}"
    )
    delimiter = find_delimiter(raw, name, columns) or ","
    # strict: a quote that is never closed would otherwise swallow the rest of the file.
    reader = csv.reader(lines(text), delimiter=delimiter, strict=True)
    row, rows, cells = 1, [], []
    try:
        header = next(reader, [])
        alone = len(header) == len(columns) == 1 and header[0] not in columns
        if alone and {*",;\t"}.isdisjoint(header[0]):
            taken = f"its first line, {header[0][:80]!r}, is taken as the header of its only column"
            print(f"warning: {name} has no column {columns[0]!r}: {taken}", file=sys.stderr)
            columns = header
        for column in columns:
            if header.count(column) != 1:
                found = ", ".join(map(repr, header)) or "none (the file is empty)"
                raise InputError(f"{name} needs one column {column!r}: its columns are {found}")
        for row, line in enumerate(reader, start=2):  # noqa: B007
            if not line and len(header) > 1:
                continue
            line = line or [""]  # A blank line of a one-column file is a blank cell.
            if len(line) != len(header):
                wanted = f"the header has {len(header)} ({', '.join(header)})"
                advice = "quote texts that contain commas"
                raise InputError(f"{name}, row {row}: {len(line)} cells where {wanted}: {advice}")
            rows.append(row)
            cells.append([line[header.index(column)] for column in columns])
    except csv.Error as error:
        raise InputError(f"{name}, after row {row}: {error}: check the quotes") from None
    return rows, cells
