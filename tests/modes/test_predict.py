import csv
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from commands import ENVIRONMENT, MAIN, ROOT

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.table import Table, read_table
from sentiment_jax.errors import InputError
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.predict import (
    check_output,
    predict,
    predict_table,
    print_predictions,
    read_input,
)
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.trained_model import load_run


@pytest.fixture(scope="module")
def trained(finished):
    return load_run(finished)


STRANGE = [
    "",
    "   \t",
    "nan",
    "<br /><br />",
    "\ufeffa good film",
    "\U0001f600\U0001f600 \u4e2d\u6587",
    "good " * 100_000,
    "\x00\x01",
    "\ud800",
]


def test_a_probability_for_whatever_comes_in(trained):
    p, warnings = predict(trained, STRANGE)
    assert len(warnings) == len(STRANGE)
    assert p.shape == (len(STRANGE), 2)
    assert np.all((p > 0) & (p < 1))


def test_the_answer_does_not_depend_on_company(trained):
    texts = [f"a film of {n} good scenes" for n in range(20)]
    together, _ = predict(trained, texts)
    alone = np.concatenate([predict(trained, [text])[0] for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_predict_is_evaluate(trained):
    """The path of --mode=predict gives what the scoring of a split gives."""
    prepared = prepare_experiment(trained.config, trained.tokenizer)
    scores = scoring.score_reviews(
        trained, trained.params, prepared.encoded["val"], "val", batch_size=8
    )
    corpus = load_corpus(DataConfig(**trained.config.data.to_dict()))
    p, _ = predict(trained, corpus.splits["val"].texts)
    np.testing.assert_allclose(p, scores.probabilities, atol=1e-6)


def output(capsys, trained, source):
    predict_table(trained, read_input(str(source), "text"))
    return [line.split(",") for line in capsys.readouterr().out.splitlines()]


def test_csv_rows_in_rows_out(trained, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text('id,text\n1,"good, really"\n2,\n3,NaN\n4,bad\n')
    rows = output(capsys, trained, path)
    assert rows[0] == ["row", "predicted", "p_positive", "warning"]
    assert [row[0] for row in rows[1:]] == ["2", "3", "4", "5"]
    assert [row[3] for row in rows[1:]] == ["", "no text", "no text", ""]
    assert all(0 < float(row[2]) < 1 for row in rows[1:])


def test_text_files_and_stdin_give_a_row_per_line(trained, tmp_path, capsys, monkeypatch):
    path = tmp_path / "mine.txt"
    path.write_text("\ufeffgood\n\nbad\u2028or not\x0c\n")
    rows = output(capsys, trained, path)
    assert [row[0] for row in rows[1:]] == ["1", "2", "3"]
    assert [row[3] for row in rows[1:]] == ["", "no text", ""]
    stdin = SimpleNamespace(buffer=io.BytesIO(path.read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert output(capsys, trained, "-") == rows


def test_bad_input_is_named(trained, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    with pytest.raises(InputError, match=r"latin.txt, line 2: byte 0xe9 is not UTF-8"):
        read_input(str(tmp_path / "latin.txt"), "text")
    (tmp_path / "columns.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"columns.csv needs one column 'text'.*'a', 'b'"):
        read_input(str(tmp_path / "columns.csv"), "text")
    with pytest.raises(InputError, match="cannot read --input="):
        read_input(str(tmp_path / "nothing.txt"), "text")


def test_json_lines_give_a_row_per_line(trained, tmp_path, capsys, monkeypatch):
    """Row 53, for a third kind of table: by its name, or by its first line."""
    lines = ['{"id": 1, "text": "a good film"}', "", '{"text": null}', '{"text": "bad"}']
    for name in ("a.jsonl", "a.txt", "-"):
        raw = "\n".join(lines).encode()
        (tmp_path / name).write_bytes(raw)
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        rows = output(capsys, trained, name if name == "-" else tmp_path / name)
        assert [row[0] for row in rows[1:]] == ["1", "3", "4"]
        assert [row[3] for row in rows[1:]] == ["", "no text", ""]
        alone = predict(trained, ["a good film"])[0][0, 1]
        assert float(rows[1][2]) == pytest.approx(alone, abs=1e-6)


COLUMNS = ["row", "predicted", "p_positive", "warning"]


@pytest.mark.parametrize("name", ["out.csv", "out.TSV", "out.jsonl"])
@pytest.mark.parametrize(
    "raw",
    [
        b"id;review;n\r\n-1;a good film;=1+1\r\n2;;\r\n",
        b'{"id": -1, "review": "a good film", "n": "=1+1"}\n{"id": 2, "review": null}\n',
    ],
)
def test_verdicts_go_to_a_file_beside_the_cells_of_the_input(trained, tmp_path, capsys, name, raw):
    (tmp_path / "in").write_bytes(raw)
    table = read_input(str(tmp_path / "in"), "review", whole=True)
    predict_table(trained, table, tmp_path / name)
    shown, errors = capsys.readouterr()
    assert shown == f"wrote {tmp_path / name}: 2 verdicts\n"
    assert errors.startswith("warning: 1 of 2 texts")
    predict_table(trained, table)
    rows = list(csv.reader(capsys.readouterr().out.splitlines()[1:]))
    written = read_table((tmp_path / name).read_bytes(), name, COLUMNS, whole=True)
    assert written.columns == ["id", "review", "n", *COLUMNS]
    if name == "out.jsonl":  # values, as they were
        assert [line[:3] for line in written.cells] == table.cells
        values = [[int(row), int(label), float(p), warning] for row, label, p, warning in rows]
        assert [line[3:] for line in written.cells] == values
    else:  # row 58: no formula
        assert [line[:3] for line in written.cells] == [
            ["-1", "a good film", "'=1+1"],
            ["2", "", ""],
        ]
        assert written.texts == rows


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_judged(trained, tmp_path):
    source, folder, file = tmp_path / "in.csv", tmp_path / "out.csv", tmp_path / "file"
    folder.mkdir()
    for path in (source, file):
        path.write_text("text,row\na,1\n")
    (tmp_path / "link.csv").symlink_to(source)
    for path, expected in (
        (tmp_path / "out.xlsx", r"out.xlsx: end its name in .csv, .tsv or .jsonl"),
        (tmp_path / "out", "out: end its name in"),
        (source, "in.csv is the input: choose another name"),
        (tmp_path / "link.csv", "link.csv is the input"),
        (folder, "out.csv is no file"),
        (file / "out.csv", "cannot write --output=.*file/out.csv: Not a directory|File exists"),
    ):
        with pytest.raises(InputError, match=expected):
            check_output(path, str(source))
    check_output(tmp_path / "new" / "out.csv", str(source))
    check_output(tmp_path / "link.csv", str(tmp_path / "misspelt.csv"))  # that is said on reading
    check_output(tmp_path / "new" / "out.csv", "-")
    table = read_input(str(source), "text", whole=True)
    with pytest.raises(InputError, match="the input has a column 'row' already: rename it there"):
        predict_table(trained, table, tmp_path / "new.csv")
    assert source.read_text() == "text,row\na,1\n" and not (tmp_path / "new.csv").exists()


HEADED = "text,label\na good film,1\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ","), ("a.CSV", ","), ("a.tsv", "\t"), ("a.TSV", "\t"), ("a.txt", "\t"), ("-", ",")],
)
def test_a_header_is_never_judged(
    trained, tmp_path, capsys, monkeypatch, name, delimiter, encoding
):
    """Row 53: a table is one by its name in any case, or by its header; a .txt is Excel's."""
    raw = HEADED.replace(",", delimiter).encode(encoding)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(raw)
    (header, row) = output(capsys, trained, name)
    assert header[0] == "row" and row[0] == "2"
    assert float(row[2]) == pytest.approx(predict(trained, ["a good film"])[0][0, 1], abs=1e-6)


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv", "a.TSV"])
def test_a_table_without_the_column_is_refused_whatever_its_names_case(tmp_path, name):
    """Row 53, where the header says nothing."""
    (tmp_path / name).write_text("id,review\n1,good\n")
    with pytest.raises(InputError, match=f"{name} needs one column 'text'"):
        read_input(str(tmp_path / name), "text")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("text", ["good\nbad\n", "\u043d\u0435 \u0432\u0438\u0434\u0435\u043b\n"])
def test_utf_16_that_does_not_say_so_is_refused(tmp_path, text, encoding):
    """Row 53: read as UTF-8, it gives texts of single letters."""
    for name in ("a.txt", "a.csv"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        with pytest.raises(InputError, match=f"{name}, (line|row) 1: a NUL byte, as in UTF-16"):
            read_input(str(tmp_path / name), "text")


def test_texts_that_mention_the_column_are_texts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("The text, a label\nand\ttext\n".encode("utf-16"))
    assert read_input(str(path), "text").texts == [["The text, a label"], ["and\ttext"]]


def test_an_only_column_needs_no_name(trained, tmp_path, capsys):
    """Row 54: the docstring promised it."""
    (tmp_path / "a.csv").write_text("review\na good film\n\n")
    predict_table(trained, read_input(str(tmp_path / "a.csv"), "text"))
    rows, errors = capsys.readouterr()
    assert [row.split(",")[0] for row in rows.splitlines()] == ["row", "2", "3"]
    assert "a.csv has no column 'text': its first line, 'review'" in errors.splitlines()[0]


EMPTY = {"": "no text", "<br />": "no text", "nan": "no text", "good film": ""}
UNKNOWN = {
    "😀😀": "100 % unknown words",
    "очень плохой фильм": "Cyrillic script",
    "这部电影太糟糕了": "CJK script",
    "xqzzy film xqzzy xqzzy": "75 % unknown words",
    "xqzzy film": "",
}


def test_verdicts_on_what_the_model_cannot_read_carry_a_warning(trained, tmp_path, capsys):
    """Row 55: in the table, in the terminal, in an explanation, and counted on stderr."""
    texts = {**EMPTY, **UNKNOWN}
    (tmp_path / "a.txt").write_text("\n".join(texts) + "\n")
    predict_table(trained, read_input(str(tmp_path / "a.txt"), "text"))
    rows, errors = capsys.readouterr()
    assert [row.split(",")[3] for row in rows.splitlines()[1:]] == list(texts.values())
    (line,) = errors.splitlines()
    assert line.startswith("warning: 7 of 9 texts have no text, mostly unknown words or another")
    print_predictions(trained, list(texts))
    shown = capsys.readouterr().out.splitlines()
    explain_texts(trained, list(texts), list(texts), tmp_path / "page.html")
    explained, errors = capsys.readouterr()
    assert errors == f"{line}\n"
    for (text, warning), row in zip(texts.items(), shown, strict=True):
        assert row.endswith(warning if text in EMPTY else text + f" ({warning})" * bool(warning))
        (headline,) = re.findall(rf"^{text}: (?:posi|nega)tive [5-9]\d\.\d %(.*)$", explained, re.M)
        assert headline == f", {warning}" * bool(warning)


def test_known_words_are_warned_of_nowhere(trained, capsys):
    assert predict(trained, ["a good film", "bad"])[1] == ["", ""]
    print_predictions(trained, ["a good film"])
    shown, errors = capsys.readouterr()
    assert shown.endswith("  a good film\n") and errors == ""


def test_a_fifo_can_be_the_input_but_no_device(tmp_path):
    """Row 57: the shell's <(...) is a FIFO; some devices never end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=["good\nbad\n"])
    writer.start()
    assert read_input(str(path), "text") == Table.from_texts(["good", "bad"])
    writer.join()
    with pytest.raises(InputError, match="cannot read --input=/dev/null: it is a FIFO, socket or"):
        read_input("/dev/null", "text")


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
def test_a_line_of_70_mb_needs_little_memory(finished, tmp_path, name, frame):
    """Row 56: 12 to 17 GB for 200 MB, before; the verdict is that on its head."""
    head = "a good film and a bad one, " * 1000
    (tmp_path / name).write_text(frame.format(head * 2600))
    arguments = "--mode=predict", f"--workdir={finished}", f"--input={tmp_path / name}"
    command = [sys.executable, "-c", PEAK, *MAIN, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < 1e6  # KiB
    row = done.stdout.splitlines()[1].split(",")
    assert float(row[2]) == pytest.approx(predict(load_run(finished), [head])[0][0, 1], abs=2e-6)


def test_each_verdict_is_one_line(trained, capsys):
    print_predictions(trained, ["a good film", " "])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[0] in ("positive", "negative")
    assert lines[1].endswith("no text")
