"""Splits and labeled tables scored with a run or an ensemble; temperatures of both."""

import json

import numpy as np
import pytest
import runs
from reviews import read_table, refuses, write_csv

from benchmarks.reliability.comparing import contents
from sentiment_jax import api
from sentiment_jax.data import dataset
from sentiment_jax.data.labels import apply_temperature
from sentiment_jax.data.table import Table
from sentiment_jax.data.texts import normalize_text
from sentiment_jax.modes.evaluate import evaluate_file, evaluate_split
from sentiment_jax.modes.predict import TextSource, predict, predict_table, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import read_dataset
from sentiment_jax.training.metrics import fit_temperature
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_ensemble, load_run

ROWS = [("A moving film.", "1"), ("Dull and long.", "0"), ("I want my money back.", "0")]


def test_a_table_of_the_test_reviews_has_the_scores_of_the_test_split(finished, tmp_path):
    test = read_dataset(RunDirectory(finished).read_config()).splits["test"]
    rows = zip(test.texts, map(str, test.codes), strict=True)
    source = TextSource(file=write_csv(tmp_path / "test.csv", rows))
    wanted = read_json(finished / "result.json")["test"]
    for workdirs in ([finished], [finished, finished]):
        assert evaluate_file(workdirs, source, None) == pytest.approx(wanted, rel=1e-6)


def test_a_text_that_is_escaped_twice_is_scored_as_it_is_predicted(finished, tmp_path):
    texts = ["not &amp;amp; good &amp;lt;br /&amp;gt; bad", "&amp;#38;good", "dull &amp;quot;plot"]
    texts.append(texts[0] * 3000)  # shortened
    once = predict([load_run(finished)], texts)[0]
    loss = -np.log(once[range(4), [1, 0, 1, 1]].astype(float)).mean()
    again = predict([load_run(finished)], [normalize_text(text) for text in texts])[0]
    assert np.abs(once - again).max() > 1e-4  # these texts show it
    labels = [1, 0, 1, 1]
    rows = zip(texts, map(str, labels), strict=True)
    source = TextSource(file=write_csv(tmp_path / "twice.csv", rows))
    output = tmp_path / "predictions.csv"
    for workdirs in ([finished], [finished, finished]):
        assert evaluate_file(workdirs, source, output)["loss"] == pytest.approx(loss, rel=1e-6)
    assert [row["p_positive"] for row in read_table(output)] == [f"{p:.6f}" for p in once[:, 1]]
    model = api.load(finished)
    assert model.evaluate((texts, labels))["loss"] == pytest.approx(loss, rel=1e-6)


def test_reviews_that_it_was_trained_on_are_counted(finished, run_copy, tmp_path, capsys):
    """Also if its own data are gone; from the shell and from Python."""
    train = read_dataset(RunDirectory(finished).read_config()).splits["train"]
    rows = [(text, str(label)) for text, label in zip(train.texts, train.codes, strict=True)]
    some = [*rows[:2], *ROWS]
    table = TextSource(file=write_csv(tmp_path / "some.csv", some))
    found = f"warning: {finished} was trained on 2 of these 5 texts (leakage)"
    evaluate_file([finished, finished], table, None)
    assert capsys.readouterr().err.count(found) == 1
    terminal.warn_once.cache_clear()
    labels = [int(label) for _, label in some]
    api.load(finished).evaluate(([text for text, _ in some], labels))
    assert found in capsys.readouterr().err
    evaluate_file([finished], TextSource(file=write_csv(tmp_path / "a.csv", ROWS)), None)
    absent = str(tmp_path / "absent.csv")
    runs.change_json(run_copy / "config.json", "data", source="csv", path=absent)
    assert "trained on" not in capsys.readouterr().err
    evaluate_file([run_copy], table, None)
    assert found.replace(str(finished), str(run_copy)) in capsys.readouterr().err


def test_predictions_are_written_beside_the_labels_where_asked(finished, tmp_path, capsys):
    before = sorted(finished.iterdir())
    source = TextSource(file=write_csv(tmp_path / "a.csv", ROWS))
    evaluate_file([finished], source, tmp_path / "out.csv")
    out = capsys.readouterr().out
    rows = read_table(tmp_path / "out.csv")
    assert [(row["text"], row["label"]) for row in rows] == ROWS
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert f"input    accuracy {right / 3:.4f} " in out and "on 3 texts" in out
    assert sorted(finished.iterdir()) == before


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--output=out.csv"], "--output goes with --input=FILE"),
        (["--input={}", "--output={}"], "is the input: choose another name"),
        (["--input={}", "--output=a.txt"], "end its name in .csv, .tsv or .jsonl"),
        (["--input=-"], "--input names a file"),
        (["--input={}", "--split=val"], "goes without --split"),
        (["--input=absent.csv"], "absent.csv: No such file or directory: name a file by --input"),
        (["--input={}", "--text_column=review"], "needs one column 'review'"),
    ],
)
def test_what_cannot_be_scored_gets_one_line(finished, tmp_path, refused, flags, problem):
    table = write_csv(tmp_path / "a.csv", ROWS)
    flags = [flag.format(table) for flag in flags]
    assert problem in refused("--mode=evaluate", f"--workdir={finished}", *flags)


def test_each_row_counts_once_and_a_foreign_label_drops_its_own_alone(finished, tmp_path, capsys):
    rows = [*ROWS, ("So so.", "neutral")]
    file = write_csv(tmp_path / "a.csv", rows, header=("review", "rating"))
    source = TextSource(file=file, column="review")
    assert evaluate_file([finished], source, None, "rating")["examples"] == 3
    assert f"dropped  1 of 4 texts in {file}, labeled neutral (1)" in capsys.readouterr().err


def test_blank_texts_are_scored_with_a_warning(finished, tmp_path, capsys):
    rows = [*ROWS, ("  ", "1"), ("nan", "0"), ("", "neutral")]
    table = TextSource(file=write_csv(tmp_path / "a.csv", rows))
    assert evaluate_file([finished], table, None)["examples"] == 5
    warning = "warning: 2 of 5 texts have no text or mostly unknown words: unreliable predictions\n"
    assert warning in capsys.readouterr().err
    api.load(finished).evaluate(tuple(zip(*rows, strict=True)))
    assert warning in capsys.readouterr().err


def test_a_run_of_stars_is_scored_on_stars_or_names_and_on_nothing_else(tmp_path):
    """Read as stars, 0 and 1 would lose one class and swap the other."""
    stars = [(f"a {'fine' if i % 5 > 2 else 'dull'} film {i}", str(1 + i % 5)) for i in range(60)]
    settings = {"data.source": "csv", "data.path": write_csv(tmp_path / "a.csv", stars)}
    settings |= {"data.positive_labels": "4,5", "data.negative_labels": "1,2", "epochs": 1}
    train(runs.make_small(**runs.ONE_SHAPE, **settings), tmp_path / "run")
    kept = [(text, int(label) > 3) for text, label in stars if label != "3"]

    def score(*names):
        rows = stars if not names else [(text, names[label]) for text, label in kept]
        file = write_csv(tmp_path / "b.csv", rows)
        scores = evaluate_file([tmp_path / "run"], TextSource(file=file), None)
        again = api.load(tmp_path / "run").evaluate(tuple(zip(*rows, strict=True)))
        assert scores == {name: again[name] for name in scores}
        return scores

    assert score() == score("negative", "positive") == score("neg", "True")
    for names in (("0", "1"), ("-1", "1"), ("1", "3")):
        refuses(r"the labels .* do not fit the classes 1/2, 4/5: spell", score, *names)


@pytest.mark.parametrize(
    "words",
    [
        ("neg", "pos"),
        ("0", "1"),
        pytest.param(("negative", "positive"), marks=pytest.mark.slow),
        pytest.param(("False", "True"), marks=pytest.mark.slow),
    ],
)
def test_a_table_says_what_the_labels_said(tmp_path, words):
    rows = [(f"a {'dull' if i % 2 else 'fine'} film {i}", words[1 - i % 2]) for i in range(40)]
    source = TextSource(file=write_csv(tmp_path / "a.csv", rows))
    settings = {"data.source": "csv", "data.path": source.file, "data.vocabulary_size": 20}
    train(runs.make_small(**runs.ONE_SHAPE, **settings, epochs=1), tmp_path / "run")
    for name in ("predictions.csv", "predictions-val.csv"):
        table = read_table(tmp_path / "run" / name)
        assert {row["label"] for row in table} == {*words} >= {row["predicted"] for row in table}
    evaluate_file([tmp_path / "run"], source, tmp_path / "out.csv")
    assert {row["predicted"] for row in read_table(tmp_path / "out.csv")} <= {*words}
    other = [("a fine film", "1"), ("a dull film", "neg")]  # other spellings of the same classes
    mixed = TextSource(file=write_csv(tmp_path / "mixed.csv", other))
    assert evaluate_file([tmp_path / "run"], mixed, None)["examples"] == 2


TEXTS = ["a good film", "", "dull and bad", "очень плохой фильм", *(f"scene {i}" for i in range(9))]


@pytest.fixture(scope="module")
def pair(finished, tmp_path_factory):
    """Runs of the same data that differ in seed, vocabulary and length; the first knows more."""
    workdir = tmp_path_factory.mktemp("ensemble")
    more = {"seed": 1, "epochs": 1, "data.min_frequency": 1, "data.max_length": 23}
    train(runs.make_small(**runs.ONE_SHAPE, **more, eval_batch_size=16), workdir)
    return [workdir, finished]


def score(workdir, split):
    """Probabilities and labels of a split; nothing is written."""
    trained = load_run(workdir)
    encoded = CLASSIFICATION.prepare(trained.config, trained.tokenizer).encoded[split]
    scores = scoring.score_texts(trained, trained.params, encoded, split)
    return scores.probabilities, encoded.labels


def test_a_run_keeps_the_temperature_of_its_best_epochs_validation(run_copy):
    probabilities, labels = score(run_copy, "val")
    kept = read_json(run_copy / "result.json")["temperature"]
    assert kept == fit_temperature(probabilities, labels)
    assert kept != 1.0
    assert load_run(run_copy).temperature == 1.0  # off by default
    assert load_run(run_copy, calibrated=True).temperature == kept
    (run_copy / "result.json").unlink()  # a training that goes on
    assert load_run(run_copy, calibrated=True).temperature == kept


def test_a_calibrated_prediction_is_the_same_class_at_another_probability(finished):
    plain, warnings = predict([load_run(finished)], TEXTS)
    trained = load_run(finished, calibrated=True)
    calibrated, again = predict([trained], TEXTS)
    assert warnings == again
    log_odds, plain_log_odds = (np.diff(np.log(p.astype(float))) for p in (calibrated, plain))
    np.testing.assert_allclose(log_odds, plain_log_odds / trained.temperature, atol=1e-6)


@pytest.mark.parametrize("calibrated", [False, True])
def test_an_ensemble_averages_the_probabilities_of_its_runs(pair, calibrated, capsys):
    ensemble = load_ensemble(pair, calibrated=calibrated)
    alone = [predict([load_run(run, calibrated=calibrated)], TEXTS)[0] for run in pair]
    together, _ = predict(ensemble, TEXTS)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-7)
    capsys.readouterr()
    print_predictions(ensemble, TEXTS)
    assert len(capsys.readouterr().out.splitlines()) == len(TEXTS)
    predict_table(ensemble, Table.from_texts(TEXTS))
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "row,predicted,p_positive,warning" and len(rows) == len(TEXTS)
    assert [row.split(",")[2] for row in rows] == [f"{p:.6f}" for p in together[:, 1]]


def test_a_word_that_one_of_the_runs_lacks_is_warned_of(pair):
    models = load_ensemble(pair)
    once, often = (set(model.tokenizer.get_vocab()) for model in models)  # min_frequency
    word = min(once - often)
    assert [predict([model], [word])[1] for model in models] == [[""], ["100 % unknown words"]]
    for ensemble in (models, models[::-1]):
        assert predict(ensemble, [word])[1] == ["100 % unknown words"]


def test_a_run_alone_is_scored_with_calibrated_probabilities(run_copy):
    """The temperature has the lowest loss on validation."""
    calibrated = evaluate_split([run_copy], "val", calibrated=True)
    plain = evaluate_split([run_copy], "val")
    assert calibrated["accuracy"] == plain["accuracy"] and calibrated["loss"] < plain["loss"]


@pytest.mark.parametrize(("split", "calibrated"), [("test", False), ("val", True)])
def test_an_ensemble_is_scored_and_nothing_is_written(pair, split, calibrated, capsys):
    before = [contents(run) for run in pair]
    scores = evaluate_split(pair, split, calibrated=calibrated)
    assert [contents(run) for run in pair] == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == scores
    predicted = []
    for run in pair:
        temperature = read_json(run / "result.json")["temperature"] if calibrated else 1.0
        probabilities, labels = score(run, split)
        predicted.append(apply_temperature(probabilities, temperature))
    mean = np.mean(predicted, axis=0)
    assert scores["accuracy"] == np.mean((mean[:, 1] > 0.5) == labels[:, 1])
    assert scores["loss"] == pytest.approx(-np.log(mean[labels]).mean())
    assert scores["examples"] == len(labels)


def test_runs_of_the_same_reviews_in_another_order(finished, run_copy, tmp_path):
    """The hash of the data, which is the same, does not depend on the order of the test set."""
    header, *rows = dataset.SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "backwards.csv").write_text(header + "".join(rows[::-1]))
    path = str(tmp_path / "backwards.csv")
    runs.change_json(run_copy / "config.json", "data", source="csv", path=path)
    alone = evaluate_split([run_copy], "test")  # its data are found to be those of the run
    for workdirs in ([finished, run_copy], [run_copy, finished]):
        assert evaluate_split(workdirs, "test") == pytest.approx(alone, abs=1e-6)


def test_runs_that_cannot_be_averaged(finished, run_copy):
    runs.change_json(run_copy / "env.json", "data", data_hash="0" * 64)
    message = rf"{finished} and {run_copy} were made with different data \(hash .* and 0{{12}}\)"
    refuses(message, evaluate_split, [finished, run_copy], "test")
    load_ensemble([finished, run_copy])  # which does not matter for texts
    runs.change_json(run_copy / "config.json", "data", labels="bad,good")
    message = "has the classes negative, positive, .* has the {}: runs with different classes"
    refuses(message.format("classes bad, good"), load_ensemble, [finished, run_copy])
    several = {"labels": "negative,positive", "label_separator": ";"}
    runs.change_json(run_copy / "config.json", "data", **several)
    refuses(message.format("labels negative, positive"), load_ensemble, [finished, run_copy])
