"""Tables of reviews: CSV, TSV or JSON lines, labels, a test set from a second file or the same."""

import csv
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import reviews
from sentiment_jax.data.labels import number_labels
from sentiment_jax.data.reviews import Reviews, lines
from sentiment_jax.errors import InputError, did_you_mean

JSON_LINES = "{"  # what a row begins with; of the other formats, what separates its cells
# By the end of a table's name, in any case.
FORMATS = {".csv": ",", ".tsv": "\t", **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSON_LINES)}


@dataclass(frozen=True)
class Table:
    """Rows of a file: their numbers in it (a header is row 1), and the columns asked for, as text.

    Where the whole table was asked for, `cells` are the values of all its `columns`.
    """

    rows: list[int]
    texts: list[list[str]]
    columns: list[str]
    cells: list[list[Any]]

    @classmethod
    def from_texts(cls, texts: Iterable[str], column: str = "text") -> "Table":
        """Return a table of one column, its rows numbered from 1."""
        cells = [[text] for text in texts]
        return cls(list(range(1, len(cells) + 1)), cells, [column], cells)


def read_reviews(data: DataConfig) -> tuple[Reviews, Reviews]:
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
        raise InputError(f"cannot read the table {path}: {error.strerror}") from None
    table = read_table(raw, path, (data.text_column, data.label_column))
    if not table.rows:
        raise InputError(f"{path} holds no reviews")
    rows = zip(table.rows, table.texts, strict=True)
    return [(f"{prefix}row {row}", text, label) for row, (text, label) in rows]


def find_format(text: str, name: str, columns: Sequence[str]) -> str:
    """Return a table's format, by its first line or else its name; "": it is no table."""
    usual = FORMATS.get(Path(name).suffix.lower(), "")
    first = next(lines(text), "")
    if first.lstrip().startswith(JSON_LINES):
        try:
            return JSON_LINES * isinstance(json.loads(first), dict) or usual
        except (ValueError, RecursionError):
            return usual
    for delimiter in (usual, *",\t;"):
        if delimiter not in ("", JSON_LINES):
            header = next(csv.reader([first[:10_000]], delimiter=delimiter), [])
            if {*columns} <= {*header}:
                return delimiter
    return usual


def read_table(
    raw: bytes, name: str, columns: Sequence[str], *, otherwise: str = ",", whole: bool = False
) -> Table:
    """Read some columns, or the whole table too; errors call the file `name`.

    A file that is no table by first line and name has the format `otherwise`: "" takes each line
    for a text. A CSV or TSV file's only column is the one asked for, whatever its header.
    """
    csv.field_size_limit(2**31 - 1)  # The default refuses reviews over 128 KiB.

    def position(before: str) -> str:
        delimiter = find_format(before, name, columns) or otherwise
        if delimiter in ("", JSON_LINES):
            return f"line {sum(1 for _ in lines(before + '?'))}"
        return f"row {sum(1 for _ in csv.reader(lines(before + '?')))}"

    text = reviews.decode(raw, name, position)
    kind = find_format(text, name, columns) or otherwise
    if kind == JSON_LINES:
        return _read_json_lines(text, name, columns, whole)
    if kind:
        return _read_delimited(text, name, columns, kind, whole)
    return Table.from_texts((line.rstrip("\r\n") for line in lines(text)), columns[0])


def _read_delimited(
    text: str, name: str, columns: Sequence[str], delimiter: str, whole: bool
) -> Table:
    # strict: a quote that is never closed would otherwise swallow the rest of the file.
    reader = csv.reader(lines(text), delimiter=delimiter, strict=True)
    row, rows, texts, cells = 1, [], [], []
    try:
        header = next(reader, [])
        alone = len(header) == len(columns) == 1 and header[0] not in columns
        if alone and {*",;\t"}.isdisjoint(header[0]):
            taken = f"its first line, {header[0][:80]!r}, is taken as the header of its only column"
            print(f"warning: {name} has no column {columns[0]!r}: {taken}", file=sys.stderr)
            columns = header
        for column in columns:
            if header.count(column) != 1:
                raise _no_column(name, column, header)
        for row, line in enumerate(reader, start=2):  # noqa: B007
            if not line and len(header) > 1:
                continue
            line = line or [""]  # A blank line of a one-column file is a blank cell.
            if len(line) != len(header):
                wanted = f"the header has {len(header)} ({', '.join(header)})"
                advice = "quote texts that contain commas"
                raise InputError(f"{name}, row {row}: {len(line)} cells where {wanted}: {advice}")
            rows.append(row)
            texts.append([line[header.index(column)] for column in columns])
            if whole:
                cells.append(line)
    except csv.Error as error:
        raise InputError(f"{name}, after row {row}: {error}: check the quotes") from None
    return Table(rows, texts, header, cells)


def _read_json_lines(text: str, name: str, columns: Sequence[str], whole: bool) -> Table:
    rows, texts, objects = [], [], []
    for row, line in enumerate(lines(text), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(
                line.rstrip("\r\n"), object_pairs_hook=_unique, parse_constant=lambda _: None
            )
            if not isinstance(value, dict):
                raise ValueError(f"{line.strip()[:20]!r} is no object")
            for column in columns:
                if isinstance(value.get(column), dict | list):
                    raise ValueError(f"{column!r} is no text")
        except (ValueError, RecursionError) as error:
            reason = re.sub(r": line 1 (column \d+) .*", r" at \1", str(error))
            advice = 'write an object per line, like {"text": "A quiet film."}'
            raise InputError(f"{name}, line {row}: {reason}: {advice}") from None
        for column in columns:
            if column not in value:
                raise _no_column(f"{name}, line {row},", column, list(value))
        rows.append(row)
        texts.append([to_text(value[column]) for column in columns])
        if whole:
            objects.append(value)
    names = list(dict.fromkeys(key for value in objects for key in value))
    return Table(rows, texts, names, [[value.get(key) for key in names] for value in objects])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name stands there twice")
    return value


def to_text(value: Any) -> str:
    """Return a table's value as the text of a cell: JSON, but for strings and null."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value)


def _no_column(where: str, column: str, found: Sequence[str]) -> InputError:
    names = [repr(column[:80]) for column in found]
    listed = reviews.first_five(names) or "none (the file is empty)"
    near = did_you_mean(column, filter(str.isprintable, found))
    return InputError(f"{where} needs one column {column!r}: its columns are {listed}{near}")
