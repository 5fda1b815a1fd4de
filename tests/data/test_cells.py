"""Text in, text out: labels, texts, names of classes and files, through each form of a table."""

import csv
import dataclasses
import json
import os
import shutil

import numpy as np
import openpyxl
import pandas
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from reviews import refuses

from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.api import _to_csv
from sentiment_jax.config.schema import Config, DataConfig, join_names
from sentiment_jax.data.kinds import join_labels, kind_of, split_labels
from sentiment_jax.data.labels import _spell, number_labels
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.table import FORMATS, read_table, read_texts, write_table
from sentiment_jax.data.texts import Texts, is_blank, normalize_text
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import read_cell, write_cell, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial

COUNTS = pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
PIECES = st.sampled_from(
    [*"'\"=+-@\\,;|[]{}\t\r\n x1\x1b\x00\u202e", "\\u001b", "nan", "1.0", "\ud800"]
)
ANY = st.text() | st.lists(PIECES, max_size=8).map("".join)
READABLE = ANY.filter(
    lambda text: "\0" not in text and not any("\ud800" <= c < "\ue000" for c in text)
)
# What may name a class, as our classes are spelled.
LABELS = READABLE.map(_spell).filter(lambda of: of.isprintable() and not is_blank(of))
NUMERALS = st.sampled_from(["1", "01", "1.1", "1.10", "1e1", "10", "-0", "inf"])  # all are names
SETS = st.one_of(
    st.lists(of, min_size=2, max_size=4, unique_by=str.casefold) for of in (LABELS, NUMERALS)
)


def check(count, strategies, function):
    """Call a function with this many examples: the same ones on every machine."""
    own = settings(max_examples=count, deadline=None, database=None, derandomize=True)
    own = settings(own, suppress_health_check=[*HealthCheck])
    own(given(**strategies)(function))()


@COUNTS
def test_a_cell_is_read_as_it_was_written(count):
    def same(text):
        assert read_cell(write_cell(text)) == text

    check(count, {"text": ANY}, same)


@COUNTS
def test_a_table_of_predictions_comes_back_with_all_its_columns(count, tmp_path):
    def same(texts, column, name):
        header = [column, "label", "row", "predicted", "warning"]
        rows = [[text, text[::-1], i, "a", ""] for i, text in enumerate(texts)]
        write_table(tmp_path / name, header, rows)
        table = read_table((tmp_path / name).read_bytes(), name, [column, "label"])
        assert table.texts == [row[:2] for row in rows]
        assert table.columns == header

    columns = ANY.filter(
        lambda of: len({of.strip().casefold(), "label", "row", "predicted", "warning"}) > 4
    )
    names = st.sampled_from(["a.csv", "a.tsv", "a.jsonl"])
    texts = st.lists(ANY, min_size=1, max_size=4)
    check(count, {"texts": texts, "column": columns, "name": names}, same)


@COUNTS
def test_labels_of_a_text_are_one_cell(count):
    def same(labels, separator):
        assert split_labels(join_labels(labels, separator), separator) == labels

    lists = st.lists(ANY.filter(bool), min_size=1, max_size=4)
    check(count, {"labels": lists, "separator": st.sampled_from(",;|")}, same)


def write_as(form, folder, rows):
    """Write texts and labels as some other program would, or as `train` does from Python."""
    path = folder / f"a.{'csv' if form == 'python' else form}"
    frame = pandas.DataFrame(rows, columns=["text", "label"])
    if form == "python":
        several = isinstance(rows[0][1], list)
        data = DataConfig(label_separator=";" if several else "")
        path.write_text(_to_csv(frame, data), newline="")
    elif form in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            lines = [
                (text, cell if isinstance(cell, str) else json.dumps(cell)) for text, cell in rows
            ]
            quoted = csv.writer(file, delimiter=FORMATS[path.suffix], quoting=csv.QUOTE_ALL)
            quoted.writerows([("text", "label"), *lines])
    elif form == "jsonl":
        path.write_text("".join(f"{json.dumps(dict(text=t, label=c))}\n" for t, c in rows))
    elif form == "parquet":
        frame.to_parquet(path)
    else:
        book = openpyxl.Workbook()
        for r, row in enumerate([("text", "label"), *rows], start=1):
            for c, value in enumerate(row, start=1):
                text = value if isinstance(value, str) else json.dumps(value)
                assume(not ILLEGAL_CHARACTERS_RE.search(text))
                cell = book.active.cell(r, c, text)
                cell.data_type = "s"  # no formula or error
        book.save(path)
    return str(path)


FORMS = st.sampled_from(["csv", "tsv", "jsonl", "parquet", "xlsx", "python"])


@COUNTS
def test_a_label_of_any_table_names_its_class(count, tmp_path):
    def same(labels, text, form):
        rows = [
            (f"{text} film {i} {text}", labels[i % len(labels)]) for i in range(5 * len(labels))
        ]
        path = write_as(form, tmp_path, rows)
        data = DataConfig("csv", path, test_path=path, labels=join_names(labels))
        for texts in read_texts(data):
            assert [texts.classes[i] for i in texts.codes] == [label for _, label in rows]
            assert texts.texts == tuple(normalize_text(text) for text, _ in rows)
        try:
            found = read_texts(dataclasses.replace(data, labels=""))[0]
        except InputError as error:
            assert "several labels" in str(error)  # as "a;b" is, unless the classes are named
        else:
            named = found.classes if found.named else ("0", "1")
            assert {*named} == {*labels} or {*labels} <= {"0", "1", "True", "False"}

    check(count, {"labels": SETS, "text": READABLE, "form": FORMS}, same)


@COUNTS
def test_a_list_of_labels_is_a_list(count, tmp_path):
    def same(labels, separator, form):
        if form == "python":
            separator = ";"
        lists = [labels[i % len(labels) :] if i % 5 else [] for i in range(7 * len(labels))]
        rows = [(f"film {i}", of) for i, of in enumerate(lists)]
        path = write_as(form, tmp_path, rows)
        data = DataConfig("csv", path, test_path=path, label_separator=separator)
        for texts in read_texts(data):
            assert {*texts.classes} == {*labels}
            found = [{texts.classes[i] for i in np.flatnonzero(of)} for of in texts.labels]
            assert found == [{*of} for of in lists]

    separators = st.sampled_from(",;|")
    check(count, {"labels": SETS, "separator": separators, "form": FORMS}, same)


@COUNTS
def test_predictions_are_read_with_the_names_that_they_were_written_with(count, tmp_path):
    directory = RunDirectory(tmp_path)

    def same(labels, ids, separator):
        data = DataConfig(labels=join_names(labels), label_separator=separator)
        config = Config(data=data)
        assert config.classes == tuple(labels)
        directory.write_config(config)
        write_json(directory.env, {})
        own = np.arange(len(ids))[:, None] % len(labels) == np.arange(len(labels))
        own |= bool(separator) & (np.arange(len(ids))[:, None] % 3 == 1)
        texts = Texts.from_texts(map(str, ids), own, ids, config.classes, True, kind_of(data))
        probabilities = np.full(own.shape, 1 / len(labels), np.float32)
        thresholds = texts.kind.thresholds(len(labels))
        write_predictions(directory, "test", texts, probabilities, config, thresholds)
        found = read_predictions([Trial("run", tmp_path, config)])
        assert found.ids == tuple(ids)
        np.testing.assert_array_equal(found.labels, own)

    ids = st.lists(ANY, min_size=1, max_size=5)
    separators = st.sampled_from(["", ",", ";"])
    check(count, {"labels": SETS, "ids": ids, "separator": separators}, same)


@COUNTS
def test_a_folder_and_its_files_keep_their_names(count, tmp_path):
    def same(labels, name):
        assume(
            all(
                len(os.fsencode(of)) < 200 and "/" not in of and of[0] != "."
                for of in (*labels, name)
            )
        )
        folder = tmp_path / "texts"
        shutil.rmtree(folder, ignore_errors=True)
        for label in labels:
            (folder / label).mkdir(parents=True)
            for i in range(2):
                (folder / label / f"{name}{i}.txt").write_text(f"a film {label} {i}")
        data = DataConfig("csv", str(folder), test_path=str(folder), labels=join_names(labels))
        for prefix, texts in zip(("", "test "), read_texts(data), strict=True):
            named = [
                f"{prefix}{texts.classes[i]}/{name}{k % 2}.txt" for k, i in enumerate(texts.codes)
            ]
            assert [*texts.ids] == named

    check(count, {"labels": SETS, "name": READABLE.filter(bool)}, same)


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("['ship' 'price']", ["ship", "price"]),  # as NumPy's arrays are written
        ("['it''s'\n \"a 'b'\"]", ["it", "s", "a 'b'"]),
        ("['a', 'b']", ["a", "b"]),
        ('["a", null]', ["a"]),
        ("['a', None]", ["a"]),
        ("[bug];[ui]", ["[bug]", "[ui]"]),
        ("[bug]", ["[bug]"]),
        ("[]", []),
    ],
)
def test_a_list_of_labels_as_programs_write_it(cell, labels):
    assert split_labels(cell, ";") == labels


@pytest.mark.parametrize("cells", [("['a']", "['a', 'b']", "['b']"), ("a", "b", "a|b")])
def test_labels_of_a_text_are_several_only_if_that_is_set(cells, tmp_path):
    rows = [(f"film {i}", cells[i % 3]) for i in range(30)]
    pandas.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "a.csv", index=False)
    refuses("holds several labels", read_texts, DataConfig("csv", str(tmp_path / "a.csv")))


def test_sharp_s_is_a_letter_of_its_own(tmp_path):
    rows = [(f"film {i}", ("Masse", "Maße", "Rot")[i % 3]) for i in range(30)]
    pandas.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "a.csv", index=False)
    found = read_texts(DataConfig("csv", str(tmp_path / "a.csv")))[0].classes
    assert found == ("Masse", "Maße", "Rot")


@pytest.mark.parametrize("labels", [("1", "2", "inf"), ("1", "2", "1e400")])
def test_a_number_may_be_infinite(labels, tmp_path):
    rows = [(f"film {i}", labels[i % 3]) for i in range(30)]
    pandas.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "a.csv", index=False)
    assert read_texts(DataConfig("csv", str(tmp_path / "a.csv")))[0].classes == labels


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_predictions_have_their_own_form(form, tmp_path):
    """Not that of the run's tables, which had no header, or apostrophes; and 1.5 stood as 1,5."""
    header = ["1", "2", "row", "predicted", "warning"]
    rows = [("it's good", "1,5", 1, "1.5", ""), ("bad", "3", 2, "3", "")]
    write_table(path := tmp_path / f"a.{form}", header, rows)
    for more in ({"header": False}, {"quote": "'"}, {"separator": ";"}):
        data = DataConfig("csv", **{"text_column": "1", "label_column": "2", **more})
        table = read_table(path.read_bytes(), path.name, ["1", "2"], data)
        assert table.texts == [["it's good", "1,5"], ["bad", "3"]]
    data = dataclasses.replace(data, labels="1.5,3")
    labels, *_ = number_labels(["1,5", "3"], ["row 1", "row 2"], data, scored=True)
    assert labels.argmax(axis=1).tolist() == [0, 1]
