"""`--mode=predict`: a row out for every row in, a warning where a prediction is unreliable."""

import csv
import io
import os
import re
import sys
import threading
from types import SimpleNamespace

import golden
import jax
import numpy as np
import pytest
import reviews
from commands import python

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.kinds import MultiLabel
from sentiment_jax.data.table import Table, read_table
from sentiment_jax.data.tokenization import train_wordpiece
from sentiment_jax.errors import InputError
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.predict import (
    TextSource,
    predict,
    predict_runs,
    predict_table,
    print_predictions,
)
from sentiment_jax.training import scoring
from sentiment_jax.training.trained_model import cast_kernels, load_run

COLUMNS = ["row", "predicted", "p_positive", "warning"]


def read(path):
    return TextSource(file=str(path)).read(DataConfig())


def test_a_prediction_does_not_depend_on_the_other_texts(model):
    """Alone, it is in a batch of another size, padded to another length."""
    texts = ["good", "", "a film of good scenes " * 4, *(f"scene {i}" for i in range(9))]
    together, warnings = predict([model], texts)
    for text, p, warning in zip(texts[:3], together, warnings, strict=False):
        alone, (its_warning,) = predict([model], [text])
        np.testing.assert_allclose(alone[0], p, atol=1e-6)
        assert its_warning == warning


# Of the others, each is one of the three in this.
CAST = ("bert", "electra_projection", "modernbert")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in CAST else pytest.mark.slow) for n in golden.TORCH]
)
def test_kernels_that_are_cast_before_change_no_bit(name):
    """As the model that `load` returns has them."""
    config = golden.build(name, dtype="bfloat16").config
    tokenizer = train_wordpiece(["A good film of many words."], vocabulary_size=30)
    run = golden.make_run(config, tokenizer, max_length=16)
    cast = cast_kernels(run)
    assert "bfloat16" in {str(leaf.dtype) for leaf in jax.tree.leaves(cast.params)}
    for texts in (["a good film"], ["", "words of many", *["good"] * 9]):
        assert (predict([run], texts)[0] == predict([cast], texts)[0]).all()


def test_predict_is_evaluate(model, finished):
    """--mode=predict gives the probabilities that the scoring of a split gave."""
    p, _ = predict([model], load_dataset(model.config.data).splits["test"].texts)
    scored = [float(row["p_positive"]) for row in reviews.read_table(finished / "predictions.csv")]
    np.testing.assert_allclose(p[:, 1], scored, atol=1e-6)


def test_new_texts_may_have_the_encoding_of_the_run(tmp_path):
    path = tmp_path / "new.csv"
    path.write_bytes(b"review\ncaf\xe9\n")
    data = DataConfig(text_column="review", encoding="cp1252")
    for column in (None, "review"):
        assert TextSource(file=str(path), column=column).read(data).texts == [["caf\xe9"]]


@pytest.mark.parametrize("stdin", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "numbers", "blank"),
    [
        ("a.csv", 'id,text\n1,"good, really"\n2,\n3,NaN\n4,bad\n', "2345", "34"),
        ("a.txt", "\ufeffgood\n\nnot\u2028or so\x0c\nbad\n", "1234", "2"),
        ("a.txt", '{"text": "good"}\n\n{"text": null}\n{"id": 1, "text": "bad"}', "134", "3"),
        ("a.jsonl", '{"text": "good"}\n\n{"text": null}\n{"id": 1, "text": "bad"}', "134", "3"),
    ],
)
def test_a_row_out_per_row_in(
    model, tmp_path, capsys, monkeypatch, name, content, numbers, blank, stdin
):
    """A table is one by its name, or by its first line: its header is not classified as a text."""
    path = tmp_path / name
    path.write_text(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content.encode())))
    predict_table([model], read("-" if stdin else path))
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == COLUMNS
    assert "".join(row[0] for row in rows) == numbers
    assert {row[0]: row[3] for row in rows if row[3]} == dict.fromkeys(blank, "no text")
    assert all(0 < float(row[2]) < 1 for row in rows)
    assert float(rows[-1][2]) == pytest.approx(predict([model], ["bad"])[0][0, 1], abs=1e-6)


def test_a_fifo_can_be_the_input(tmp_path):
    """It is the shell's <(...)."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=["good\nbad\n"])
    writer.start()
    assert read(path) == Table.from_texts(["good", "bad"])
    writer.join()


def test_bad_files_are_refused_with_the_place(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\ncaf\xe9\n")
    (tmp_path / "a.TSV").write_bytes(b"id,review\n1,good\n")
    for name, message in {
        "a.txt": "a.txt, line 2: byte 0xe9 is not UTF-8",  # tests/data/test_table.py has more
        "a.TSV": "needs one column 'text': its columns are 'id",
        "absent": "cannot read --input=.*/absent: No such file",
        "/dev/null": "cannot read --input=/dev/null: it is a FIFO, socket or",
    }.items():
        reviews.refuses(message, read, tmp_path / name)


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
    table = TextSource(file=str(tmp_path / "in"), column="review").read(DataConfig())
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
    else:
        assert "'=1+1" in (tmp_path / name).read_text()  # a spreadsheet would run the formula
        assert cells == [["-1", "a good film", "=1+1"], ["2", "", ""]]
        assert written.texts == printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.xlsx", r"out.xlsx: end its name in .csv, .tsv or .jsonl"),
        ("out", "out: end its name in"),
        ("in.csv", "in.csv is the input: choose another name"),
        ("link.csv", "link.csv is the input"),
        ("in.csv/out.csv", "cannot write --output=.*in.csv/out.csv: Not a directory|File exists"),
        ("folder.csv", "folder.csv can't be replaced: choose another name"),
        (f"out{'t' * 249}.csv", "cannot write --output=.*: File name too long"),
        (f"out{'t' * 245}.csv", "cannot write --output=.*: File name too long"),  # while written
        ("out\0.csv", r"out\\x00.csv' can't be written: .*embedded null"),
        (
            f"out{'t' * 300}/a.csv",
            "cannot write --output=.*a.csv: File name too long: name another by --output",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["predict", "evaluate"])
def test_an_output_that_cannot_be_written_is_refused_first(
    refused, finished, monkeypatch, tmp_path, mode, name, message
):
    source = tmp_path / "in.csv"
    source.write_text("text,label\na,1\n")
    (tmp_path / "link.csv").symlink_to(source)
    (tmp_path / "folder.csv").mkdir()
    monkeypatch.setattr(scoring, "score_texts", lambda *_, **__: pytest.fail("it is scored"))
    line = [f"--mode={mode}", f"--workdir={finished}", f"--input={source}"]
    assert re.search(message, refused(*line, f"--output={tmp_path}/{name}"))
    assert source.read_text() == "text,label\na,1\n" and not list(tmp_path.rglob("*out*"))
    line[-1] = f"--input={tmp_path}/misspelt.csv"  # refused when it is read
    assert "misspelt.csv: No such file" in refused(*line, f"--output={tmp_path}/link.csv")


@pytest.mark.parametrize("mode", ["predict", "evaluate"])
@pytest.mark.parametrize(
    ("columns", "name", "taken"),
    [
        ("row,x", "out.csv", "row"),
        ("p_positive,x", "out.jsonl", "p_positive"),
        ("x,x", "out.jsonl", "x"),
        ("x,x", "out.tsv", None),  # which keeps both
    ],
)
def test_no_column_of_the_input_is_lost(
    printed, finished, monkeypatch, tmp_path, mode, columns, name, taken
):
    (tmp_path / "in.csv").write_text(f"text,label,{columns}\ngood,1,5,6\nbad,0,7,8\n")
    line = [f"--mode={mode}", f"--workdir={finished}", f"--input={tmp_path}/in.csv"]
    line.append(f"--output={tmp_path}/{name}")
    if taken is None:
        printed(*line)
        assert "\ngood\t1\t5\t6\t2\t" in (tmp_path / name).read_text()
        return
    monkeypatch.setattr(scoring, "score_texts", lambda *_, **__: pytest.fail("it is scored"))
    message = f"error: --output would have two columns '{taken}': rename the input's\n"
    assert printed(*line, code=2) == message


EMPTY = dict.fromkeys(("", "<br />", "nan"), "no text")
TEXTS = {
    **EMPTY,
    "good film": "",
    "😀😀": "100 % unknown words",
    "очень плохой фильм": "100 % unknown words",
    "xqzzy film xqzzy xqzzy": "75 % unknown words",
    "xqzzy film": "",
}


def test_unreliable_predictions_carry_a_warning(model, tmp_path, capsys):
    predict_table([model], Table.from_texts(TEXTS))
    shown, errors = capsys.readouterr()
    assert [row.split(",")[3] for row in shown.splitlines()[1:]] == list(TEXTS.values())
    (line,) = errors.splitlines()
    assert line.startswith("warning: 6 of 8 texts have no text or mostly unknown words: ")
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


@pytest.mark.parametrize("calibrated", [False, True])
def test_unsure_predictions_are_empty_and_validation_says_how_many(
    finished, calibrated, tmp_path, capsys
):
    model = load_run(finished, calibrated=calibrated)
    assert (model.temperature != 1) == calibrated
    texts = load_dataset(model.config.data).splits["val"].texts
    labels = [row["label"] for row in reviews.read_table(finished / "predictions-val.csv")]
    p, _ = predict([model], texts)
    least = float(np.median(p.max(axis=1)))
    sure = p.max(axis=1) >= least
    source = tmp_path / "in.csv"
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    predict_runs(
        [finished], TextSource(file=str(source)), None, at_least=least, calibrated=calibrated
    )
    shown, errors = capsys.readouterr()
    found = [row["predicted"] for row in csv.DictReader(shown.splitlines())]
    assert [answer != "" for answer in found] == sure.tolist() and 0 < sum(sure) < len(sure)
    right = [answer == label for answer, label in zip(found, labels, strict=True) if answer]
    share = f"{100 * sure.mean():.1f} % of its {len(sure)} validation texts"
    accuracy = f"have p of {least:g} or more, with accuracy {np.mean(right):.4f}"
    assert errors.splitlines()[-1].endswith(f"{share} {accuracy}")
    print_predictions([model], texts, least)
    lines = capsys.readouterr().out.splitlines()
    starts = [line.startswith(("positive ", "negative ")) for line in lines]
    assert starts == sure.tolist()
    assert len({line.index(" %") for line in lines}) == 1  # aligned as before


def test_multi_label_predictions_are_not_left_empty():
    with pytest.raises(InputError, match="--at_least is for one class per text"):
        MultiLabel().p_of_predicted(np.array([[0.9, 0.2]]), [0.5, 0.5])


PREDICT = """
import re, sys
from pathlib import Path
from sentiment_jax.modes.predict import TextSource, predict_runs
for name in sys.argv[2:]:
    predict_runs([Path(sys.argv[1])], TextSource(file=name), None)
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_a_line_of_70_mb_needs_little_memory(finished, model, tmp_path):
    """200 MB would take 12 to 17 GB, if more than the beginning was tokenized."""
    head = "a good film and a bad one, " * 1000
    frames = {"a.txt": "{}", "a.csv": 'text\n"{}"\n', "a.jsonl": '{{"text": "{}"}}'}
    for name, frame in frames.items():
        (tmp_path / name).write_text(frame.format(head * 2600))
    *lines, peak = python("-c", PREDICT, finished, *map(tmp_path.joinpath, frames)).stdout.split()
    assert int(peak) < 1e6
    expected = predict([model], [head])[0][0, 1]
    found = [float(line.split(",")[2]) for line in lines if line[0].isdigit()]
    assert found == pytest.approx([expected] * 3, abs=2e-6)
