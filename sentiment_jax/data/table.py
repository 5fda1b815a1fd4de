"""Tables of texts, labels, a test set from a second file or the same.

A table is a CSV, TSV or JSON lines file, a Parquet file or Excel workbook that pandas reads, or a
folder of texts, CLASS/*.txt. Cells have the separator and quotes by which all rows are as wide.
"""

import csv
import dataclasses
import io
import itertools
import json
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from sentiment_jax.config.schema import MOST_CLASSES, DataConfig, split_names
from sentiment_jax.data.kinds import kind_of
from sentiment_jax.data.labels import NUMBER, join_columns, number_labels
from sentiment_jax.data.texts import (
    BINARY,
    TEXT_FILES,
    Texts,
    decode,
    first_five,
    is_blank,
    lines,
    list_classes,
    normalize_text,
    read_files,
    stratified_split,
)
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import read_cell, regular, write_atomically, write_csv

# A format is the separators to try, or for JSON lines the first character of a row.
JSON_LINES = "{"
SEPARATORS = ",\t;|"
FLAGS = "--config.data."  # before the names of settings; "--" before those of an --input
CLASS_FOLDERS = f"[!.]*/{TEXT_FILES}"
# By the end of a table's name, in any case.
FORMATS = {".csv": ",", ".tsv": "\t", **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSON_LINES)}
PARQUET, WORKBOOK = BY_PANDAS = (b"PAR1", b"PK\x03\x04")  # the first bytes
WRITTEN = {"row", "predicted", "warning"}  # columns of a table of predictions, by write_table
ANY = DataConfig()  # a table in UTF-8 whose form is found


@dataclass(frozen=True)
class Table:
    """Rows of a file: their numbers in it (a header is row 1), and their `cells` in all `columns`.

    `texts` are the cells of the columns asked for, as text.
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


def read_texts(data: DataConfig) -> tuple[Texts, ...]:
    """Return the texts of data.path, for the test, and for validation if they have a file.

    Those for the test are data.test_path's, or a share of data.path's that is held out.
    """
    paths = {"": data.path, "test ": data.test_path, "validation ": data.validation_path}
    files = {
        prefix: _with_text(_read_file(path, data, prefix), path)
        for prefix, path in paths.items()
        if path
    }
    kept, everything = _number([row for rows in files.values() for row in rows], data)
    file = np.repeat(np.arange(len(files)), [len(rows) for rows in files.values()])
    found = {name: everything.take(kept & (file == i)) for i, name in enumerate(files)}
    pool = found.pop("")
    for name, held_out in found.items():
        if not len(held_out):
            listed = list_classes(everything.classes)
            raise InputError(f"{paths[name]} has no text of the classes {listed}")
        if (alone := held_out.labels.any(axis=0) & ~pool.labels.any(axis=0)).any():
            label = everything.classes[alone.argmax()]
            raise InputError(f"label {label!r} is in {paths[name]} alone: no text teaches it")
    if not data.test_path:
        trained, held = stratified_split(
            pool, data.test_fraction, seed=data.split_seed, grouped=data.group_duplicates
        )
        found = {"test ": pool.take(np.sort(held)), **found}
        pool = pool.take(np.sort(trained))
    return pool, *found.values()


def read_labeled(data: DataConfig, rows: Sequence[tuple[str, str, str]] = ()) -> Texts:
    """Return the texts of data.path, or of rows, that have labels of the classes."""
    kept, everything = _number(rows or _read_file(data.path, data, flags="--"), data, scored=True)
    return everything.take(kept)


def _with_text(rows: list[tuple[str, str, str]], path: str) -> list[tuple[str, str, str]]:
    """Return the rows that have a text; InputError: more than one in a hundred has none."""
    blank = [name for name, text, _ in rows if is_blank(normalize_text(text))]
    counts = f"{len(blank):,} of {len(rows):,} texts"
    problem = f"{counts} in {path} without text ({first_five(blank)})"
    if 100 * len(blank) > len(rows):
        raise InputError(f"{problem}: remove them, or name the column by --config.data.text_column")
    if blank:
        print(f"dropped  {problem}", file=sys.stderr)
    dropped = {*blank}
    return [row for row in rows if row[0] not in dropped]


def _number(
    rows: Sequence[tuple[str, str, str]], data: DataConfig, *, scored: bool = False
) -> tuple[Bool[np.ndarray, " rows"], Texts]:
    """Return which rows have a class or labels, and the texts."""
    ids, texts, labels = zip(*rows, strict=True)
    if all(re.fullmatch(r"[\s\d.,+-]+", text) for text in texts):
        where = f"{data.path}, column {data.text_column!r}"
        raise InputError(f"{where}: the texts are numbers: name another, --config.data.text_column")
    found, classes, named = number_labels(labels, ids, data, scored=scored)
    kept = np.logical_or(found.any(axis=1), data.multi_label)
    return kept, Texts.from_texts(texts, found, ids, classes, named, kind_of(data))


def _read_file(
    path: str, data: DataConfig, prefix: str = "", flags: str = FLAGS
) -> list[tuple[str, str, str]]:
    """Return id, text and label of each row, or of each file of a folder."""
    root = Path(path).expanduser()
    try:
        if root.is_dir():
            texts = read_files(root, CLASS_FOLDERS, data.encoding)
            if not texts:
                raise InputError(f"{path} holds no CLASS/*.txt: name a folder of them, or a table")
            return [(prefix + name, texts[name], name.partition("/")[0]) for name in texts]
        raw = regular(root).read_bytes()
    except OSError as error:
        flag = "--input" if flags == "--" else f"{flags}{prefix.replace(' ', '_')}path"
        problem = f"cannot read the table {path}: {error.strerror}"
        raise InputError(f"{problem}: name a file by {flag}") from None
    labels = split_names(data.label_columns) or (data.label_column,)
    table = read_table(raw, path, (data.text_column, *labels), data, flags=flags)
    if not table.rows:
        raise InputError(f"{path} holds no texts")
    rows = zip(table.rows, table.texts, strict=True)
    named = [(f"{prefix}row {row}", text, cells) for row, (text, *cells) in rows]
    return [(row, text, join_columns(cells, row, data)) for row, text, cells in named]


def find_format(text: str, name: str, columns: Sequence[str], data: DataConfig = ANY) -> str:
    """Return JSON_LINES or separators to try, by the first line or name; "": it is not a table."""
    by_name = FORMATS.get(Path(name).suffix.lower(), "")
    first = next(lines(text), "")[:10_000]
    if re.match(r'\s*{\s*"', first):
        return JSON_LINES
    found = {}  # how many of the columns a separator finds
    given = data.separator.replace("tab", "\t") + by_name.removeprefix(JSON_LINES)
    tried = "".join(dict.fromkeys(given + SEPARATORS))
    for separator in tried if data.header else "":
        headers = [next(csv.reader([first], delimiter=separator, quotechar=q), []) for q in "\"'"]
        found[separator] = max(sum(find_column(h, c) is not None for c in columns) for h in headers)
    best = max(found, key=found.__getitem__, default="")  # the first of equally good ones
    if found.get(best):
        return best
    return tried if by_name in tried and by_name else by_name


def find_column(found: Sequence[Any], wanted: str) -> Any:
    """Return the one column of this name, or else that differs in case or outer spaces; or None."""
    same = [name for name in found if name == wanted]
    same = same or [n for n in found if str(n).strip().casefold() == wanted.strip().casefold()]
    return same[0] if len(same) == 1 else None


def read_table(
    raw: bytes,
    name: str,
    columns: Sequence[str],
    data: DataConfig = ANY,
    *,
    otherwise: str = SEPARATORS,
    flags: str = FLAGS,
) -> Table:
    """Read a table, and some columns of it as texts; errors call the file `name`.

    `data` has encoding, separator, quote and header. A file that is not a table by first line and
    name has the format `otherwise`: "" takes each line for a text, if there may be a header. A CSV
    or TSV file's only column is the one asked for, whatever its header.
    """
    if raw.startswith(BY_PANDAS):
        return _read_json_lines(_to_json_lines(raw, name), name, columns, flags)
    text = decode(raw, name, data.encoding)
    if text.startswith("sep="):  # for Excel, which reads its separator from it
        raise InputError(f"{name}: delete the first line, {text[:5]!r}: the header is below it")
    format_ = find_format(text, name, columns, data) or (otherwise if data.header else SEPARATORS)
    if format_ == JSON_LINES:
        return _read_json_lines(text, name, columns, flags)
    if format_:
        return _read_delimited(text, name, columns, format_, data, flags)
    return Table.from_texts((line.rstrip("\r\n") for line in lines(text)), columns[0])


def _read_delimited(
    text: str, name: str, columns: Sequence[str], separators: str, data: DataConfig, flags: str
) -> Table:
    csv.field_size_limit(2**31 - 1)  # The default refuses texts over 128 KiB.
    first_rows = {of: next(csv.reader(lines(text), delimiter=of), []) for of in SEPARATORS}
    written = "".join(of for of, row in first_rows.items() if {*row} >= WRITTEN)
    if written:  # which has a form of its own, whatever form the run's tables have
        data = dataclasses.replace(data, separator="", quote='"', header=True)
    separators = written or data.separator.replace("tab", "\t") or separators
    readings = {of: _read_cells(text, of, data.quote) for of in separators}
    whole = {of: len(header) for of, (header, _, problem) in readings.items() if not problem}
    separator = max(whole or readings, key=lambda of: whole.get(of, len(readings[of][1])))
    header, found, problem = readings[separator]
    if problem:
        settings = f", or set {flags}quote=none or {flags}separator" if flags == FLAGS else ""
        raise InputError(f"{name}, {problem}{settings}")
    if written:
        header = [*map(read_cell, header)]
        found = {row: [*map(read_cell, line)] for row, line in found.items()}
    several = [of for of in sorted(whole, key=whole.__getitem__, reverse=True) if whole[of] > 1]
    if len(several) > 1 and not data.header:
        choices = (shlex.quote(of.replace("\t", "tab")) for of in several)
        listed = " or ".join(f"{flags}separator={choice}" for choice in choices)
        raise InputError(f"{name}: its cells may have several separators: add {listed}")
    numbers = [str(i + 1) for i in range(len(header))]
    rows = [*found.values()]
    if not data.header:
        header = numbers
    elif rows:
        found.pop(next(iter(found)))
    alone = len(header) == len(columns) == 1 and find_column(header, columns[0]) is None
    if alone and {*SEPARATORS}.isdisjoint(header[0]):
        taken = f"its first line, {header[0][:80]!r}, is taken as the header of its only column"
        if data.header:
            print(f"warning: {name} has no column {columns[0]!r}: {taken}", file=sys.stderr)
        columns = header
    elif data.header and find_column(header, columns[0]) is None and _lacks_header(rows):
        remedy = f"add {flags}header=False {_guess(numbers, rows, columns, flags)}"
        remedy = remedy if flags == FLAGS else "write the names of the columns above it"
        raise InputError(f"{name}: the first row looks like a text: {remedy}")
    places = [header.index(c) for c in _find_columns(header, columns, name, rows[1:], flags)]
    texts = [[line[i] for i in places] for line in found.values()]
    if separator == ";" and data.between_labels != ",":  # programs begin decimals with a comma
        halves = re.compile(r"\s*[-+]?\d+(,(0|5|25|75)0*)?\s*|")  # 1,2 may be two labels
        for i in range(1, len(columns)):
            if all(halves.fullmatch(cells[i]) for cells in texts):
                texts = [[*of[:i], of[i].replace(",", "."), *of[i + 1 :]] for of in texts]
    return Table([*found], texts, header, [*found.values()])


def _read_cells(
    text: str, separator: str, quote: str
) -> tuple[list[str], dict[int, list[str]], str]:
    """Return `_split` by this quote, or by the first of those that it may be.

    Apostrophes if a twentieth of the rows has some at the start of a cell; none between tabs or
    bars, as databases write; or ". A backslash before a quote may stand for a second one.
    """
    marks = [quote] if quote else ["none", '"'] if separator in "\t|" else ['"']
    starts = text.count(f"{separator}'") + text.count("\n'")
    if not quote and 20 * starts > text.count("\n") + 1:
        marks = ["'", *marks]
    for mark in marks:
        for form in [text] if mark == "none" else [text, text.replace(f"\\{mark}", 2 * mark)]:
            header, rows, problem = reading = _split(form, separator, mark)
            cells = itertools.chain(*rows.values()) if mark != '"' else ()
            quoted = any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
            if not problem and (quote or not quoted):
                return reading
    return _split(text, separator, marks[-1])


def _split(text: str, separator: str, quote: str) -> tuple[list[str], dict[int, list[str]], str]:
    """Return the first row, the rows by number up to one of another width, and what is wrong."""
    # strict: a quote that is never closed would otherwise swallow the rest of the file.
    form: Any = {"quoting": csv.QUOTE_NONE} if quote == "none" else {"quotechar": quote}
    reader = csv.reader(lines(text), delimiter=separator, strict=True, **form)
    rows: dict[int, list[str]] = {}
    header: list[str] = []
    number = 0
    try:
        for number, line in enumerate(reader, start=1):
            header = header or line
            if len(cells := line or [""]) == len(header):  # a blank line of one column is a cell
                rows[number] = cells
            elif line:
                problem = f"row {number}: {len(line)} cells where the header has {len(header)}"
                remedy = f"quote texts that hold {separator!r}"
                return header, rows, f"{problem} ({', '.join(header)[:80]}): {remedy}"
    except csv.Error as error:
        return header, rows, f"after row {number}: {error}: check or double the quotes"
    return header, rows, ""


def _lacks_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row has a cell that recurs below it, or a number above numbers."""
    return rows[:1] != rows[1:2] and any(
        cell.strip() and (cell in below or all(map(NUMBER.fullmatch, [cell, *below])))
        for cell, *below in zip(*rows, strict=True)
    )


def _to_json_lines(raw: bytes, name: str) -> str:
    """Return what pandas reads; the header of a workbook, its first row, is a blank line."""
    import pandas  # late: it takes half a second

    try:
        if raw.startswith(PARQUET):
            frame = pandas.read_parquet(io.BytesIO(raw), dtype_backend="numpy_nullable")
            if frame.index.names != [None]:  # it is a column, too
                frame = frame.reset_index()
            for column in frame.columns:
                if pandas.api.types.infer_dtype(frame[column]) == "bytes":  # else letters get lost
                    frame[column] = frame[column].str.decode("utf-8")
        else:
            file = io.BytesIO(raw)
            # 01 and NA are texts.
            found = pandas.read_excel(file, None, dtype=object, keep_default_na=False)
            (sheet, frame), *others = found.items()
            header = pandas.read_excel(file, header=None, nrows=1).to_numpy().ravel().tolist()
            twice = {column: f"{column}.0" for column in header if header.count(column) > 1}
            frame = frame.rename(columns=twice)  # pandas has named the others .1, .2
            if ignored := first_five([repr(other) for other, of in others if not of.empty]):
                read = f"its first sheet, {sheet!r}, is read, {ignored} not"
                print(f"warning: {name}: {read}", file=sys.stderr)
        text = frame.to_json(orient="records", lines=True, date_format="iso", double_precision=15)
    except Exception as error:  # each reader has errors of its own, and wants its own library
        problem = f"{name} is {BINARY[raw[:4]]}, which pandas can't read ({error})"
        raise InputError(f"{problem}: save it as a CSV file in UTF-8") from None
    return text if raw.startswith(PARQUET) else f"\n{text}"


def _read_json_lines(text: str, name: str, columns: Sequence[str], flags: str) -> Table:
    found = {}
    texts = []
    advice = 'write an object per line, like {"text": "A quiet film."}'
    try:
        for row, line in enumerate(lines(text), start=1):
            if line.strip():
                found[row] = json.loads(line.rstrip("\r\n"), parse_constant=lambda _: None)
                if not isinstance(found[row], dict):
                    raise ValueError(f"{line.strip()[:20]!r} is not an object")
        for row, value in found.items():
            like = ([*map(to_text, v.values())] for v in found.values() if [*v] == [*value])
            cells: list[str] = []
            for key in _find_columns([*value], columns, f"{name}, line {row},", like, flags):
                if isinstance(value[key], dict if cells else dict | list):  # several labels: a list
                    raise ValueError(f"{key!r} is not a text")
                cells.append(to_text(value[key]))
            texts.append(cells)
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("line 1 ", "")
        raise InputError(f"{name}, line {row}: {reason}: {advice}") from None
    objects = found.values()
    names = list(dict.fromkeys(key for value in objects for key in value))
    return Table([*found], texts, names, [[value.get(key) for key in names] for value in objects])


def to_text(value: Any) -> str:
    """Return a table's value as the text of a cell: JSON, but for strings and null."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write values as JSON lines, CSV or TSV, by the path's name, for `read_table`."""
    kind = FORMATS[path.suffix.lower()]
    if kind == JSON_LINES:
        objects = (dict(zip(header, row, strict=True)) for row in rows)
        write_atomically(path, "".join(f"{json.dumps(value)}\n" for value in objects))
    else:
        write_csv(path, header, ([*map(to_text, row)] for row in rows), kind)


def _find_columns(
    found: Sequence[str],
    wanted: Sequence[str],
    where: str,
    rows: Iterable[Sequence[str]],
    flags: str,
) -> list[str]:
    """Return the columns of these names; InputError: there is none of a name, or several."""
    columns = [find_column(found, column) for column in wanted]
    if None not in columns:
        return columns
    missing = wanted[columns.index(None)]
    guess = _guess(found, [*itertools.islice(rows, 1000)], wanted, flags)
    advice = f"name yours by {guess or 'data.label_columns'}"
    if len(found) == 1:  # the separator may be another one
        found = re.split(f"[{SEPARATORS}]", found[0])
    listed = ", ".join(repr(name[:40]) for name in found[:20]) or "none (the file is empty)"
    listed += f" and {len(found) - 20} more" if len(found) > 20 else ""
    if "label_column=" in advice and flags == FLAGS:
        advice += " (or data.label_columns)"
    if len(wanted) > 1 and "NAME" in advice:
        advice += "; a table's first line is a header like text,label, and each further line like "
        advice += '"A quiet film.",positive'
    raise InputError(f"{where} needs one column {missing!r}: its columns are {listed}; {advice}")


def _guess(
    names: Sequence[str], rows: Sequence[Sequence[str]], wanted: Sequence[str], flags: str
) -> str:
    """Return flags of the missing columns: the longest cells, and the fewest different ones."""
    found = [find_column(names, column) for column in wanted]
    cells = dict(zip(names, zip(*rows, strict=True), strict=False)) if len(names) > 1 else {}
    free = [name for name in cells if name.strip() and [*names, *found].count(name) == 1]
    chosen = {}
    if found[0] is None:
        longest = max(free, key=lambda name: sum(map(len, cells[name])), default="NAME")
        chosen["text_column"] = longest
    if found[1:] == [None]:
        kinds = {name: len({*cells[name]}) for name in free if name not in chosen.values()}
        few = [n for n, count in kinds.items() if 1 < count <= min(MOST_CLASSES, len(rows) // 2)]
        chosen["label_column"] = min(few, key=kinds.__getitem__, default="NAME")
    return " ".join(f"{flags}{kind}={shlex.quote(name)}" for kind, name in chosen.items())
