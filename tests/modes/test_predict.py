import csv
import io
import os
import re
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import reviews
from commands import MAIN, python

from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.table import Table, read_table
from sentiment_jax.errors import InputError
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.predict import (
    TextSource,
    check_output,
    predict,
    predict_table,
    print_predictions,
)


def read(path):
    return TextSource(file=str(path)).read()


@pytest.fixture
def rows(model, capsys, monkeypatch):
    """Predict a file's texts, also by standard input; return the table's rows."""

    def call(path, stdin=False):
        if stdin:
            raw = io.BytesIO(path.read_bytes())
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw))
        predict_table([model], read("-" if stdin else path))
        header, *rows = csv.reader(capsys.readouterr().out.splitlines())
        assert header == COLUMNS
        return rows

    return call


COLUMNS = ["row", "predicted", "p_positive", "warning"]


# Probabilities


def test_a_prediction_does_not_depend_on_the_other_texts(model):
    texts = [f"a film of {n} good scenes" for n in range(20)]
    together, _ = predict([model], texts)
    alone = np.concatenate([predict([model], [text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_predict_is_evaluate(model, finished):
    """--mode=predict gives the probabilities that the scoring of a split gave."""
    p, _ = predict([model], load_corpus(model.config.data).splits["test"].texts)
    scored = [float(row["p_positive"]) for row in reviews.read_table(finished / "predictions.csv")]
    np.testing.assert_allclose(p[:, 1], scored, atol=1e-6)


# Files in


@pytest.mark.parametrize("stdin", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "numbers", "blank"),
    [
        ("a.csv", 'id,text\n1,"good, really"\n2,\n3,NaN\n4,bad\n', "2345", "34"),
        ("a.txt", "\ufeffgood\n\nbad\u2028or not\x0c\n", "123", "2"),
        ("a.txt", '{"text": "good"}\n\n{"text": null}\n{"id": 1, "text": "bad"}', "134", "3"),
        ("a.jsonl", '{"text": "good"}\n\n{"text": null}\n{"id": 1, "text": "bad"}', "134", "3"),
    ],
)
def test_a_row_out_for_every_row_in(rows, tmp_path, name, content, numbers, blank, stdin):
    """Rows 27 and 53: a table is one by its name, or by its first line."""
    (tmp_path / name).write_text(content)
    found = rows(tmp_path / name, stdin)
    assert "".join(row[0] for row in found) == numbers
    assert {row[0]: row[3] for row in found if row[3]} == dict.fromkeys(blank, "no text")
    assert all(0 < float(row[2]) < 1 for row in found)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.CSV", ","), ("a.tsv", "\t"), ("a.TSV", "\t"), ("a.txt", "\t"), ("-", ",")],
)
def test_a_header_is_never_classified(model, rows, tmp_path, name, delimiter, encoding):
    """Row 53: a table is one by its name in any case, or by its header; a .txt is Excel's."""
    path = tmp_path / name
    path.write_bytes("text,label\na good film,1\n".replace(",", delimiter).encode(encoding))
    ((number, _, p, _),) = rows(path, stdin=name == "-")
    assert number == "2"
    assert float(p) == pytest.approx(predict([model], ["a good film"])[0][0, 1], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.txt", b"good\ncaf\xe9\n", "a.txt, line 2: byte 0xe9 is not UTF-8"),
        ("a.txt", "не видел\n".encode("utf-16-le"), "line 1: a NUL byte, as in UTF-16"),
        ("a.csv", b"id,review\n1,good\n", "needs one column 'text': its columns are 'id"),
        ("a.TSV", b"id,review\n1,good\n", "needs one column 'text': its columns are 'id"),
    ],
)
def test_bad_files_are_refused_with_the_place(tmp_path, name, raw, message):
    """Rows 28 and 53: UTF-16 without a mark, read as UTF-8, gives texts of single letters."""
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name)


def test_a_fifo_can_be_the_input_but_no_device(tmp_path):
    """Row 57: the shell's <(...) is a FIFO; some devices never end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=["good\nbad\n"])
    writer.start()
    assert read(path) == Table.from_texts(["good", "bad"])
    writer.join()
    with pytest.raises(InputError, match="cannot read --input=/dev/null: it is a FIFO, socket or"):
        read("/dev/null")
    with pytest.raises(InputError, match="cannot read --input=.*/nothing.txt: No such file"):
        read(tmp_path / "nothing.txt")


# Files out


@pytest.mark.parametrize("name", ["out.csv", "out.TSV", "out.jsonl"])
@pytest.mark.parametrize(
    "raw",
    [
        b"id;review;n\r\n-1;a good film;=1+1\r\n2;;\r\n",
        b'{"id": -1, "review": "a good film", "n": "=1+1"}\n{"id": 2, "review": null}\n',
    ],
)
def test_predictions_follow_the_cells_of_the_input(model, tmp_path, capsys, name, raw):
    (tmp_path / "in").write_bytes(raw)
    table = TextSource(file=str(tmp_path / "in"), column="review").read()
    predict_table([model], table)
    printed = list(csv.reader(capsys.readouterr().out.splitlines()[1:]))
    predict_table([model], table, tmp_path / name)
    shown, errors = capsys.readouterr()
    assert shown == f"wrote {tmp_path / name}: 2 predictions\n"
    assert errors.startswith("warning: 1 of 2 texts")
    written = read_table((tmp_path / name).read_bytes(), name, COLUMNS)
    assert written.columns == ["id", "review", "n", *COLUMNS]
    cells = [line[:3] for line in written.cells]
    if name == "out.jsonl":  # values, as they were
        values = [[int(row), int(label), float(p), warning] for row, label, p, warning in printed]
        assert cells == table.cells
        assert [line[3:] for line in written.cells] == values
    else:  # row 58: no formula
        assert cells == [["-1", "a good film", "'=1+1"], ["2", "", ""]]
        assert written.texts == printed


def test_an_output_that_cannot_be_written_is_refused_before_predicting(model, tmp_path):
    source = tmp_path / "in.csv"
    source.write_text("text,row\na,1\n")
    (tmp_path / "link.csv").symlink_to(source)
    for name, message in (
        ("out.xlsx", r"out.xlsx: end its name in .csv, .tsv or .jsonl"),
        ("out", "out: end its name in"),
        ("in.csv", "in.csv is the input: choose another name"),
        ("link.csv", "link.csv is the input"),
        ("in.csv/out.csv", "cannot write --output=.*in.csv/out.csv: Not a directory|File exists"),
    ):
        with pytest.raises(InputError, match=message):
            check_output(tmp_path / name, str(source))
    check_output(tmp_path / "link.csv", str(tmp_path / "misspelt.csv"))  # refused when it is read
    check_output(tmp_path / "new" / "out.csv", "-")
    with pytest.raises(InputError, match="the input has a column 'row' already: rename it there"):
        predict_table([model], read(source), tmp_path / "new.csv")
    assert source.read_text() == "text,row\na,1\n" and not (tmp_path / "new.csv").exists()


# Warnings

EMPTY = {"": "no text", "<br />": "no text", "nan": "no text"}
TEXTS = {
    **EMPTY,
    "good film": "",
    "😀😀": "100 % unknown words",
    "очень плохой фильм": "Cyrillic script",
    "这部电影太糟糕了": "CJK script",
    "xqzzy film xqzzy xqzzy": "75 % unknown words",
    "xqzzy film": "",
}


def test_unreliable_predictions_carry_a_warning(model, tmp_path, capsys):
    """Row 55: in the table, in the terminal, in an explanation, and counted on stderr."""
    predict_table([model], Table.from_texts(TEXTS))
    shown, errors = capsys.readouterr()
    assert [row.split(",")[3] for row in shown.splitlines()[1:]] == list(TEXTS.values())
    (line,) = errors.splitlines()
    assert line.startswith("warning: 7 of 9 texts have no text, mostly unknown words or another")
    print_predictions([model], list(TEXTS))
    lines = capsys.readouterr().out.splitlines()
    explain_texts(model, list(TEXTS), list(TEXTS), tmp_path / "page.html")
    explained, errors = capsys.readouterr()
    assert errors == f"{line}\n"
    for (text, warning), row in zip(TEXTS.items(), lines, strict=True):
        ending = f"{text} ({warning})" if warning else f"  {text}"
        assert row.split()[0] in ("positive", "negative")
        assert row.endswith(warning if text in EMPTY else ending)
        (headline,) = re.findall(rf"^{text}: (?:posi|nega)tive [5-9]\d\.\d %(.*)$", explained, re.M)
        assert headline == (f", {warning}" if warning else "")


# Linux counts a child's peak from before its exec, when its memory is its parent's: pytest's own.
PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "frame"), [("a.txt", "{}"), ("a.csv", 'text\n"{}"\n'), ("a.jsonl", '{{"text": "{}"}}')]
)
def test_a_line_of_70_mb_needs_little_memory(finished, model, tmp_path, name, frame):
    """Row 56: 12 to 17 GB for 200 MB, before; only the beginning is read."""
    head = "a good film and a bad one, " * 1000
    (tmp_path / name).write_text(frame.format(head * 2600))
    arguments = "--mode=predict", f"--workdir={finished}", f"--input={tmp_path / name}"
    done = python("-c", PEAK, *MAIN, *arguments)
    assert int(done.stderr.split()[-1]) < 1e6  # KiB
    row = done.stdout.splitlines()[1].split(",")
    assert float(row[2]) == pytest.approx(predict([model], [head])[0][0, 1], abs=2e-6)
