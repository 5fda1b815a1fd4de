"""A labeled table scored with a run: the same metrics as from Python, predictions where asked."""

import dataclasses

import jax
import numpy as np
import pytest
import runs
from commands import command_line
from reviews import read_table, write_csv

from sentiment_jax import api, main
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.modes.evaluate import evaluate_file, score_labeled
from sentiment_jax.modes.predict import TextSource
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.experiment import read_corpus
from sentiment_jax.training.scoring import score_reviews
from sentiment_jax.training.tasks.classification import with_classes
from sentiment_jax.training.trained_model import load_run

ROWS = [("A moving film.", "1"), ("Dull and long.", "0"), ("I want my money back.", "0")]


def test_a_table_of_the_test_reviews_has_the_scores_of_the_test_split(finished, tmp_path):
    test = read_corpus(RunDirectory(finished).read_config()).splits["test"]
    rows = zip(test.texts, map(str, test.labels), strict=True)
    source = TextSource(file=write_csv(tmp_path / "test.csv", rows))
    wanted = read_json(finished / "result.json")["test"]
    for workdirs in ([finished], [finished, finished]):
        assert evaluate_file(workdirs, source, None) == pytest.approx(wanted, rel=1e-6)
    from_python = api.load(finished).evaluate(([text for text, _ in ROWS], [1, 0, 0]))
    few = TextSource(file=write_csv(tmp_path / "a.csv", ROWS))
    assert evaluate_file([finished], few, None).items() <= from_python.items()


def test_the_loss_of_a_confident_mistake_is_that_of_the_test_split(finished):
    """Float32's epsilon, to which a log loss is often clipped, would make it 16 at most."""
    trained = load_run(finished)
    test = read_corpus(trained.config).splits["test"]
    classifier = jax.tree.map(lambda values: values * 600, trained.params["classifier"])
    trained = dataclasses.replace(trained, params={**trained.params, "classifier": classifier})
    wanted = score_reviews(trained, trained.params, trained.encode(test), "test")
    of_label = wanted.probabilities[np.arange(len(test)), test.labels]
    assert 0 < of_label.min() < 1e-9
    scores, _ = score_labeled([trained], test)
    assert scores == pytest.approx(wanted.summary(), rel=1e-4)


def test_reviews_that_it_was_trained_on_are_counted(finished, run_copy, tmp_path, capsys):
    """Unless its own data are gone; from the shell and from Python."""
    train = read_corpus(RunDirectory(finished).read_config()).splits["train"]
    rows = [(text, str(label)) for text, label in zip(train.texts, train.labels, strict=True)]
    some = [*rows[:2], *ROWS]
    table = TextSource(file=write_csv(tmp_path / "some.csv", some))
    found = f"warning: {finished} was trained on 2 of these 5 reviews (leakage)"
    evaluate_file([finished, finished], table, None)
    assert capsys.readouterr().err.count(found) == 1
    terminal.warn_once.cache_clear()
    labels = [int(label) for _, label in some]
    api.load(finished).evaluate(([text for text, _ in some], labels))
    assert found in capsys.readouterr().err
    evaluate_file([finished], TextSource(file=write_csv(tmp_path / "a.csv", ROWS)), None)
    absent = str(tmp_path / "absent.csv")
    runs.change_json(run_copy / "config.json", "data", source="csv", path=absent)
    evaluate_file([run_copy], table, None)
    assert "trained on" not in capsys.readouterr().err


def test_predictions_are_written_beside_the_labels_where_asked(finished, tmp_path, capsys):
    before = sorted(finished.iterdir())
    source = TextSource(file=write_csv(tmp_path / "a.csv", ROWS))
    evaluate_file([finished], source, tmp_path / "out.csv")
    out = capsys.readouterr().out
    rows = read_table(tmp_path / "out.csv")
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


def test_each_row_counts_once_and_a_foreign_label_drops_its_own_alone(finished, tmp_path, capsys):
    rows = [*ROWS, ("So so.", "neutral")]
    file = write_csv(tmp_path / "a.csv", rows, header=("review", "rating"))
    source = TextSource(file=file, column="review")
    assert evaluate_file([finished], source, None, "rating")["examples"] == 3
    assert "dropped  1 of 4 reviews, labeled neutral (1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("neg", "pos"),
        ("0", "1"),
        pytest.param(("negative", "positive"), marks=pytest.mark.slow),
        pytest.param(("False", "True"), marks=pytest.mark.slow),
    ],
)
def test_a_table_says_what_the_labels_said(make_small, tmp_path, words):
    """The words of the file come back in every table; 0 and 1 stay 0 and 1."""
    rows = [(f"a {'dull' if i % 2 else 'fine'} film {i}", words[1 - i % 2]) for i in range(40)]
    source = TextSource(file=write_csv(tmp_path / "a.csv", rows))
    settings = {"data.source": "csv", "data.path": source.file, "data.vocabulary_size": 20}
    train(make_small(**runs.ONE_SHAPE, **settings, epochs=1), tmp_path / "run")
    for name in ("predictions.csv", "predictions-val.csv"):
        table = read_table(tmp_path / "run" / name)
        assert {row["label"] for row in table} == {*words} >= {row["predicted"] for row in table}
    evaluate_file([tmp_path / "run"], source, tmp_path / "out.csv")
    assert {row["predicted"] for row in read_table(tmp_path / "out.csv")} <= {*words}
    other = [("a fine film", "1"), ("a dull film", "neg")]  # other spellings of the same classes
    mixed = TextSource(file=write_csv(tmp_path / "mixed.csv", other))
    assert evaluate_file([tmp_path / "run"], mixed, None)["examples"] == 2


def test_tables_of_earlier_revisions_are_read(run_copy):
    """They have 0 and 1 where the config names negative and positive."""
    directory = RunDirectory(run_copy)
    named = with_classes(directory.read_config(), Reviews.from_texts(["a"], named=True))
    assert named.cells == ["negative", "positive"]
    directory.write_config(named)
    read = read_predictions([Trial("run", run_copy, named)])
    assert np.bincount(read.labels).tolist() == [15, 15]
