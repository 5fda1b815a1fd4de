"""Whatever comes in: a finite row out for every row in, or one InputError that says where."""

import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterator

import numpy as np
import pandas
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import sentiment_jax
from sentiment_jax.data.table import read_table
from sentiment_jax.data.texts import is_blank, normalize_text
from sentiment_jax.errors import InputError
from sentiment_jax.modes.predict import BLANK, predict, predict_table
from sentiment_jax.storage.files import NUMBER

CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
# A failure on one machine is one on every machine.
FUZZ = settings(deadline=None, database=None, derandomize=True, suppress_health_check=CHECKS)


# Control characters, NUL, right-to-left, combining and joining marks, markup, quotes, line ends.
STRANGE = st.sampled_from(
    [
        *"\x00\x01\x07\x0c\x1b\x7f\x85\xad\u0301\u200b\u200d\u200f\u202e\u2028\u2029\ufeff\uffff",
        *("e\u0301" * 9, "\u0645\u0631\u062d\u0628\u0627", "\u05e9\u05dc\u05d5\u05dd"),
        *("\U0001f468\u200d\U0001f469", "<br />", "&amp;", "&#0;", "&#xd800;", "[PAD]", "nan"),
        *('"', "'", ",", "\r", "\n", "\r\n", "\t"),
    ]
)
WORDS = st.sampled_from(["good", "bad", "film", "a" * 300, " "])
TEXTS = st.one_of(
    st.text(max_size=40),
    st.lists(st.one_of(STRANGE, WORDS), max_size=12).map("".join),
    st.builds(lambda piece, n: piece * n, st.one_of(STRANGE, WORDS), st.integers(0, 300)),
)


@settings(FUZZ, max_examples=120)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
@example(texts=["\x00", "", "\ud800", "\u0301", "&#xd800;", "word " * 100_000])
def test_every_text_gets_a_finite_prediction(model, texts):
    p, warnings = predict([model], texts)
    assert len(warnings) == len(texts)
    assert p.shape == (len(texts), 2)
    assert np.all((p > 0) & (p < 1))


def written(rows, end="\n", quoting=csv.QUOTE_MINIMAL, encoding="utf-8", delimiter=","):
    """A csv file as some program would write it."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=quoting, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode(encoding)


CELLS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.lists(st.one_of(STRANGE, WORDS), max_size=6).map("".join),
).map(lambda cell: cell.replace("\0", ""))  # a file with NUL bytes is refused


@settings(FUZZ, max_examples=200)
@given(
    cells=st.lists(st.tuples(CELLS, CELLS), max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    delimiter=st.sampled_from(",\t;"),
    name=st.sampled_from(["file.csv", "file.CSV", "file.tsv", "file"]),
)
def test_a_well_formed_csv_comes_back_cell_by_cell(cells, end, quoting, encoding, delimiter, name):
    if re.search("[\r\n]", "".join(map("".join, cells))):
        quoting = csv.QUOTE_ALL  # Python 3.11's minimum leaves some of these without quotes
    raw = written([("id", "text"), *cells], end, quoting, encoding, delimiter)
    table = read_table(raw, name, ["text", "id"])
    assert table.texts == [[text, name] for name, text in cells]
    assert (table.columns, table.cells) == (["id", "text"], [[*line] for line in cells])
    assert table.rows == list(range(2, len(cells) + 2))


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@settings(FUZZ, max_examples=200)
@given(
    cells=st.lists(st.tuples(TEXTS, VALUES), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r", "\n\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    name=st.sampled_from(["file.jsonl", "file.JSON", "file.ndjson", "file.txt", "file"]),
    readable=st.booleans(),
)
def test_well_formed_json_lines_come_back_value_by_value(cells, end, encoding, name, readable):
    if readable:  # no encoding has lone surrogates
        dumped = json.dumps(cells, ensure_ascii=False)
        cells = json.loads(dumped.encode("utf-8", "replace"))
    objects = [{"id": value, "text": text} for text, value in cells]
    lines = [json.dumps(value, ensure_ascii=not readable) for value in objects]
    table = read_table("".join(line + end for line in lines).encode(encoding), name, ["text"])
    assert table.texts == [[text] for text, _ in cells]
    assert (table.columns, table.cells) == (["id", "text"], [[v, text] for text, v in cells])


PIECES = st.sampled_from(
    [b'"', b",", b"\n", b"\r", b"\r\n", b"\x00", b"\xff", b"\xc3", b"\xef\xbb\xbf", b"text", b";"]
    + [b"\xff\xfe", b"\xfe\xff", b"\t", b"{", b"}", b":", b"[", b'{"text": "a"}', b"1e999"]
)


@st.composite
def damaged(draw):
    """A table that is cut off, or holds what does not belong there."""
    cells = draw(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4))
    objects = "\n".join(json.dumps({"id": name, "text": text}) for name, text in cells)
    raw = draw(st.sampled_from([written([("id", "text"), *cells]), objects.encode()]))
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(PIECES) + draw(st.sampled_from([b"", raw[at:]]))


@settings(FUZZ, max_examples=300)
@given(raw=st.binary(max_size=60) | st.lists(PIECES, max_size=15).map(b"".join) | damaged())
@example(raw=b"text\n" + b"x" * 200_000)
@example(raw=b"\xef\xbb\xbf")
@example(raw=b"\xef\xbb")
@example(raw=b"\xef\xbb\xbf" + b"x" * 200_000 + b"\xff")
@example(raw=b'"')
@example(raw=b"a,b b b b b b b b b b b b\n,b b b b b b b b b b b b")
def test_any_bytes_are_read_or_refused(raw):
    """An error is one line, with the file and its kind or place."""
    place = r"(, (after )?row \d+:|, line \d+[:,]| needs one column| is (an?|compressed) "
    place += r"|: the first row looks like a text: )"
    starts = [("file.csv", first) for first in (b"", b"text\n", b"id,text\n")]
    for name, first in [*starts, ("file.jsonl", b""), ("file.jsonl", b'{"text": "a"}\n')]:
        try:
            table = read_table(first + raw, name, ["text"])
        except InputError as error:
            assert re.match(re.escape(name) + place, str(error)) and "\n" not in str(error), error
            continue
        assert len(table.rows) == len(table.cells) == len(table.texts)
        assert all(len(line) == 1 for line in table.texts)
        assert all(len(line) == len(table.columns) for line in table.cells)
        assert table.rows == sorted(set(table.rows))


@settings(FUZZ, max_examples=60)
@given(
    texts=st.lists(CELLS, min_size=1, max_size=6),
    lines=st.booleans(),
    kind=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_predict_writes_a_row_for_every_row(model, tmp_path, capsys, texts, lines, kind):
    output = tmp_path / f"predictions.{kind}"
    raw = "\n".join(json.dumps({"text": text}) for text in texts)
    if lines:
        raw = "\n".join(texts)
        texts = re.split("\r\n|\r|\n", raw.removeprefix("\ufeff"))
        texts = texts if texts[-1] else texts[:-1]  # the last line ends, no other begins
    capsys.readouterr()
    table = read_table(raw.encode(), "file.txt" if lines else "file.jsonl", ["text"], otherwise="")
    predict_table([model], table)
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["row", "predicted", "p_positive", "warning"]
    assert len(rows) == len(texts)
    assert all(0 < float(row[2]) < 1 for row in rows)
    assert [row[3] == BLANK for row in rows] == [is_blank(normalize_text(text)) for text in texts]
    predict_table([model], table, output)
    back = read_table(output.read_bytes(), str(output), header)
    assert [[*row[:2], f"{float(row[2]):.6f}", row[3]] for row in back.texts] == rows
    shown = [line[0] for line in read_table(output.read_bytes(), output.name, ["text"]).texts]
    assert len(shown) == len(texts)
    if kind == "jsonl":
        assert shown == texts
    else:
        separator = "\t" if kind == "tsv" else ","
        with output.open(newline="", encoding="utf-8") as file:
            cells = itertools.chain(*csv.reader(file, delimiter=separator))
            formulas = [cell for cell in cells if re.match("[=+@-]", cell)]
        assert all(map(NUMBER.fullmatch, formulas))


SCALARS = st.one_of(
    TEXTS,
    TEXTS.map(lambda text: text.encode("utf-8", "replace")),
    st.binary(max_size=8),
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.sampled_from([pandas.NA, pandas.NaT, pandas.Timestamp(0), np.datetime64(0, "s"), 1j]),
    st.sampled_from([np.float16(2), np.int64(-3), np.bool_(True), np.str_("a"), np.bytes_(b"a")]),
)
CELLS_OF_PYTHON = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(TEXTS, SCALARS, max_size=2)
)
COLUMNS = st.sampled_from([["text"], ["text", "text"], ["a"], ["a", "text"], [("text", "a")], [0]])


def as_frame(values, names, index):
    table = pandas.DataFrame(
        {i: pandas.Series(values, dtype=object) for i, _ in enumerate(names)}
    ).set_axis(index * len(values) if index else range(len(values)))
    return table.set_axis(pandas.Index(names, tupleize_cols=len(names) == 1), axis=1)


LISTS = st.lists(SCALARS, max_size=5) | st.lists(CELLS_OF_PYTHON, max_size=5)
ARRAYS = LISTS.map(lambda values: np.fromiter(values, object, len(values)))
PYTHON = st.one_of(
    CELLS_OF_PYTHON,
    LISTS,
    LISTS.map(tuple),
    LISTS.map(iter),
    LISTS.map(lambda values: pandas.Series(values, dtype=object)),
    st.builds(np.reshape, ARRAYS, st.sampled_from([-1, (-1, 1), (1, -1)])),
    st.builds(lambda values: np.array([f"{v}"[:9] for v in values]), LISTS),
    st.builds(as_frame, LISTS, COLUMNS, st.sampled_from([[], ["x"], [None]])),
    st.dictionaries(st.sampled_from(["text", "label", b"text"]), LISTS | SCALARS, max_size=2),
)


@pytest.fixture(scope="module")
def loaded(finished):
    return sentiment_jax.load(finished)


def answer(function, *arguments):
    """What a function of a model returns, or None if it refuses in one line."""
    try:
        return function(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, error
        return None


def to_python(value):
    """The text of a value as a table holds it, or None if it holds no such value."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if value is None or value is pandas.NA or value is pandas.NaT or value != value:
        return ""
    value = value.item() if isinstance(value, np.bool_ | np.number) else value
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, str | int | float) else None


@settings(FUZZ, max_examples=int(os.environ.get("PYTHON_EXAMPLES", 60)))
@given(values=PYTHON)
@example(values=np.array([["a", "b"]]))
@example(values=b"\xff")
def test_any_value_from_python_is_predicted_as_its_text_is_or_refused(loaded, values):
    """Bytes are decoded; column names, byte numbers and reprs are never classified."""
    if isinstance(values, Iterator):
        values = list(values)
        found = answer(loaded.predict, iter(values))
    else:
        found = answer(loaded.predict, values)
        labels = [0] * (len(values) if isinstance(values, list | pandas.Series) else 1)
        answer(loaded.evaluate, (values, labels))
        answer(loaded.explain, values)
    if found is not None:
        if isinstance(values, pandas.DataFrame | dict):
            values = values["text"]
        values = [values] if isinstance(values, str | bytes) else list(values)
        texts = [to_python(value) for value in values]
        assert None not in texts and len(found) == len(texts)
        expected, warnings = predict([loaded._trained], texts)
        assert found.p_positive.tolist() == pytest.approx(expected[:, 1].tolist(), abs=1e-6)
        assert found.warning.tolist() == warnings
    elif isinstance(values, list) and not any(isinstance(v, list | dict) for v in values):
        assert None in map(to_python, values)
