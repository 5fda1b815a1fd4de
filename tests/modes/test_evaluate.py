"""A labeled table scored with a run: the same metrics as from Python, predictions where asked."""

import csv

import numpy as np
import pytest
from commands import command_line
from reviews import write_csv

from sentiment_jax import api, main
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError
from sentiment_jax.modes.evaluate import evaluate_file, evaluate_run
from sentiment_jax.modes.predict import TextSource
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.experiment import read_corpus, with_classes
from sentiment_jax.training.trained_model import load_run

ROWS = [("A moving film.", "1"), ("Dull and long.", "0"), ("I want my money back.", "0")]


def write_test_split(run, path):
    """Write the reviews that a run was tested on as a table of its own."""
    test = read_corpus(RunDirectory(run).read_config()).splits["test"]
    return write_csv(path, zip(test.texts, map(str, test.labels), strict=True))


def test_a_table_of_the_test_reviews_has_the_scores_of_the_test_split(finished, tmp_path):
    path = write_test_split(finished, tmp_path / "test.csv")
    wanted = read_json(finished / "result.json")["test"]
    scores = evaluate_file([finished], TextSource(file=path), None)
    assert scores == pytest.approx(wanted, rel=1e-6)
    twice = evaluate_file([finished, finished], TextSource(file=path), None)
    assert twice == pytest.approx(wanted, rel=1e-6)
    from_python = api.load(finished).evaluate(([t for t, _ in ROWS], [1, 0, 0]))
    table = write_csv(tmp_path / "a.csv", ROWS)
    shell = evaluate_file([finished], TextSource(file=table), None)
    assert {name: from_python[name] for name in shell} == shell


def test_predictions_are_written_beside_the_labels_where_asked(
    finished, tmp_path, capsys, monkeypatch
):
    table = write_csv(tmp_path / "a.csv", ROWS)
    flags = ["--mode=evaluate", f"--workdir={finished}", f"--input={table}"]
    before = sorted(finished.iterdir())
    with command_line(monkeypatch, [*flags, f"--output={tmp_path}/out.csv"]):
        assert main.main() == 0
    out = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [(row["text"], row["label"]) for row in rows] == ROWS
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert f"input    accuracy {right / 3:.4f} " in out and "on 3 reviews" in out
    assert sorted(finished.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--output=out.csv"], "--output goes with --input=FILE"),
        (["--input={}", "--output={}"], "is the input: choose another name"),
        (["--input={}", "--output=a.txt"], "end its name in .csv, .tsv or .jsonl"),
        (["--input=-"], "--input names a file"),
        (["--input={}", "--split=val"], "goes without --split"),
        (["--input=absent.csv"], "cannot read the table absent.csv"),
        (["--input={}", "--text_column=review"], "needs one column 'review'"),
    ],
)
def test_what_cannot_be_scored_gets_one_line(
    finished, tmp_path, capsys, monkeypatch, flags, problem
):
    table = write_csv(tmp_path / "a.csv", ROWS)
    flags = [flag.format(table) for flag in flags]
    with command_line(monkeypatch, ["--mode=evaluate", f"--workdir={finished}", *flags]):
        assert main.main() == 2
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1


def test_other_columns_and_rows_that_are_dropped(finished, tmp_path, capsys):
    """Each row counts once; a foreign label drops its own row alone, whatever the spelling."""
    rows = [*ROWS, ("So so.", "neutral")]
    table = write_csv(tmp_path / "a.csv", rows, header=("review", "rating"))
    source = TextSource(file=table, column="review")
    assert evaluate_file([finished], source, None, "rating")["examples"] == 3
    assert "dropped  1 of 4 reviews, labeled neutral (1)" in capsys.readouterr().err


def test_labels_of_other_classes_are_refused(finished, tmp_path):
    table = write_csv(tmp_path / "a.csv", [("A film.", "good"), ("A film!", "bad")])
    with pytest.raises(
        InputError, match="no label is one of the model's classes, negative, positive"
    ):
        evaluate_file([finished], TextSource(file=table), None)


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (("neg", "pos"), ("neg", "pos")),
        (("negative", "positive"), ("negative", "positive")),
        (("0", "1"), ("0", "1")),
        (("False", "True"), ("False", "True")),
    ],
)
def test_a_table_says_what_the_labels_said(make_small, tmp_path, words, cells):
    """The words of the file come back in every table; 0 and 1 stay 0 and 1."""
    rows = [(f"a {'dull' if i % 2 else 'fine'} film {i}", words[1 - i % 2]) for i in range(40)]
    path = write_csv(tmp_path / "a.csv", rows)
    settings = {"data.source": "csv", "data.path": path, "epochs": 1, "data.length_buckets": ()}
    train(make_small(**settings), tmp_path / "run")
    for name in ("predictions.csv", "predictions-val.csv"):
        table = list(csv.DictReader((tmp_path / "run" / name).read_text().splitlines()))
        assert {row["label"] for row in table} == {*cells} >= {row["predicted"] for row in table}
    source = TextSource(file=path)
    evaluate_file([tmp_path / "run"], source, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= {*words}
    other = [("a fine film", "1"), ("a dull film", "neg")]  # other spellings of the same classes
    mixed = TextSource(file=write_csv(tmp_path / "mixed.csv", other))
    assert evaluate_file([tmp_path / "run"], mixed, None)["examples"] == 2


def test_tables_of_earlier_revisions_are_read(make_small, tmp_path):
    """They have 0 and 1 where the config names negative and positive."""
    config = override(make_small(epochs=1), {"data.source": "sample"})
    train(config, tmp_path / "run")
    directory = RunDirectory(tmp_path / "run")
    named = with_classes(directory.read_config(), Reviews.from_texts(["a"], named=True))
    assert named.cells == ["negative", "positive"]
    directory.write_config(named)
    read = read_predictions([Trial("run", directory.path, named)])
    assert np.bincount(read.labels).tolist() == [15, 15]


def test_the_validation_predictions_are_those_of_the_best_epoch(finished, tmp_path):
    """Training writes them, and they are what --mode=evaluate --split=val writes again."""
    before = (finished / "predictions-val.csv").read_bytes()
    evaluate_run(finished, "val")
    assert (finished / "predictions-val.csv").read_bytes() == before
    assert len(load_run(finished).classes) == 2
