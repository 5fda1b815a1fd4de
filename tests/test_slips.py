"""Thirty slips of a newcomer with a table: the line that each one gets, before anything trains."""

import re
import shlex

import pytest

from sentiment_jax.runtime import startup

ROWS = [(f"{'good' if i % 2 else 'bad'} thing {i}", "pos" if i % 2 else "neg") for i in range(60)]


def table(header="text,label", rows=ROWS, separator=","):
    return "\n".join([header, *(f"{text}{separator}{label}" for text, label in rows), ""])


def relabeled(label):
    return table(rows=[(text, label(i)) for i, (text, _) in enumerate(ROWS)])


NAMES = "its columns are {}; name yours by --config.data.text_column"
RARE = "labels of fewer than 5 texts \\({}"
SLIPS = {  # flags, the content of reviews.csv, the line
    "a path with a typing error": ("data.path=reveiws.csv", table(), "cannot read .*reveiws.csv"),
    "a folder without classes": ("data.path=.", table(), "holds no CLASS/\\*.txt"),
    "an empty file": ("", "", "the file is empty"),
    "a header alone": ("", "text,label\n", "reviews.csv holds no texts"),
    "no header": (
        "",
        table("a good thing,pos"),
        "first row looks like a text: add --config.data.header=False --config.data.text_column=1 "
        "--config.data.label_column=2$",
    ),
    "a separator of two characters": ("data.separator=::", table(), "'::', .* is one character"),
    "columns of other names": (
        "",
        table("review,stars"),
        NAMES.format("'review', 'stars'") + "=review --config.data.label_column=stars ",
    ),
    "a column with a typing error": (
        "data.text_column=txt",
        table(),
        NAMES.format("'text', 'label'"),
    ),
    "two columns that differ in case": (
        "",
        table("Text,TEXT,label", separator=",x,"),
        "'Text', 'TEXT', 'label'",
    ),
    "swapped columns": ("", table("label,text"), "are these texts\\? name the other column"),
    "the column of the row's number": (
        "data.text_column=id",
        "text,label,id\n"
        + "".join(f"{text},{label},{i}\n" for i, (text, label) in enumerate(ROWS)),
        "column 'id': the texts are numbers: name another",
    ),
    "spaces between cells": ("", table("text label", separator=" "), NAMES.format("'text label'")),
    "commas without quotes": ("", table(rows=[("a, b", "pos")]), "row 2: 3 cells .* quote texts"),
    "an open quote": ("", table() + '"so good,pos\n', "after row 61: .*double the quotes"),
    "Latin-1": ("", table(rows=[("café", "pos")]).encode("cp1252"), "line 2: byte 0xe9 .*=cp1252"),
    "an encoding that no one knows": (
        "data.encoding=latin15",
        b"text,label\n\xe9,pos\n",
        "latin15",
    ),
    "an encoding that is none": (
        "data.encoding=undefined",
        b"text,label\n\xe9,pos\n",
        "not UTF-8 nor data.encoding=undefined",
    ),
    "ten columns of other names": (
        "",
        table("a,b,c,d,e,f,g,h,review,stars", separator=",1,2,3,4,5,6,7,8,"),
        "'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'review', 'stars'; name",
    ),
    "a PDF": ("", b"%PDF-1.4\0", "line 1: a NUL byte.*save it as UTF-8"),
    "a damaged workbook": ("", b"PK\x03\x04", "Excel workbook.*save it as a CSV file"),
    "a JSON array": (
        "",
        '{"text": "good", "label": "pos"}\n["bad", "neg"]\n',
        "line 2: .* is not an object: write an object per line",
    ),
    "blank texts": (
        "",
        table(rows=[("", "pos"), *ROWS]),
        "1 of 61 texts .* without text \\(row 2",
    ),
    "no labels": ("", relabeled(lambda i: ""), "no label \\(row 2: ''.* and 55 more\\): remove"),
    "numbers to predict": ("", relabeled(lambda i: i / 7), "regression is not supported"),
    "a label with a typing error": ("", table(rows=[*ROWS, ("so", "ops")]), RARE.format("row 62")),
    "one class": ("", relabeled(lambda i: "pos"), "0 negative texts cannot be split"),
    "three rows": ("", table(rows=ROWS[:3]), "1 pos texts cannot be split"),
    "labels that no row has": ("data.labels=good,bad", table(), "0 good, 0 bad texts"),
    "more folds than texts": ("data.folds=200", table(), "needs 200 different texts, there are 48"),
    "percent": ("data.test_fraction=20", table(), "data.test_fraction=20.0 must be .* < 1"),
    "a number with a letter": ("epochs=3x", table(), "--config.epochs=3x: a whole number"),
    "the table for the recipe": ("--config=reviews.csv", table(), "no recipe: .*data.path=reviews"),
    "a short flag": (
        "--data=reviews.csv",
        table(),
        "no flag --data; did you mean --config.data.path",
    ),
    "no flag at all": (
        "reviews.csv",
        table(),
        "stray .*did you mean --config.data.path=reviews.csv",
    ),
    "weights that are not there": (
        "--config=encoder model.pretrained=./minilm",
        table(),
        "model.pretrained=./minilm: no such folder",
    ),
}


def test_there_are_thirty():
    assert len(SLIPS) >= 30


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_gets_one_line(slip, printed, tmp_path, monkeypatch):
    flags, content, line = SLIPS[slip]
    given = [
        word if word.startswith(("--", "reviews.csv")) else f"--config.{word}"
        for word in shlex.split(flags)
    ]
    if not any(word.startswith("--config=") for word in given):
        given.insert(0, "--config=linear")
    raw = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "reviews.csv").write_bytes(raw)
    monkeypatch.setattr(startup, "start", lambda *_: None)  # JAX has its devices
    monkeypatch.chdir(tmp_path)
    if not any("data.path=" in word for word in given):
        given.append("--config.data.path=reviews.csv")
    *before, error = printed(*given, "--workdir=run", code=2).splitlines()
    assert error.startswith("error: ") and re.search(line, error), error
    assert all(line.startswith(("warning: ", "dropped ")) for line in before)
    assert not (tmp_path / "run").exists()
