"""Temperatures and ensembles, in predict and evaluate."""

import json

import numpy as np
import pytest
import runs

from benchmarks.comparing import contents
from sentiment_jax.data import corpus
from sentiment_jax.data.table import Table
from sentiment_jax.errors import InputError
from sentiment_jax.modes.evaluate import evaluate_ensemble, evaluate_run
from sentiment_jax.modes.predict import predict, predict_table, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.training import scoring
from sentiment_jax.training.metrics import apply_temperature, fit_temperature
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_ensemble, load_run

TEXTS = ["a good film", "", "dull and bad", "очень плохой фильм", *(f"scene {i}" for i in range(9))]


@pytest.fixture(scope="module")
def pair(finished, make_small, tmp_path_factory):
    """Runs of the same data that differ in seed, vocabulary and length; the first knows more."""
    workdir = tmp_path_factory.mktemp("ensemble")
    more = {"seed": 1, "epochs": 1, "data.min_frequency": 1, "data.max_length": 23}
    train(make_small(**runs.ONE_SHAPE, **more, eval_batch_size=16), workdir)
    return [workdir, finished]


def score(workdir, split):
    """Probabilities and labels of a split; nothing is written."""
    trained = load_run(workdir)
    encoded = CLASSIFICATION.prepare(trained.config, trained.tokenizer).encoded[split]
    scores = scoring.score_reviews(trained, trained.params, encoded, split)
    return scores.probabilities, encoded.labels


def test_a_run_keeps_the_temperature_of_its_best_epochs_validation(run_copy):
    probabilities, labels = score(run_copy, "val")
    kept = read_json(run_copy / "result.json")["temperature"]
    assert kept == fit_temperature(probabilities, labels)
    assert 0.1 <= kept <= 10 and kept != 1.0
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


@pytest.mark.parametrize(("split", "calibrated"), [("test", False), ("val", True)])
def test_an_ensemble_is_scored_and_nothing_is_written(pair, split, calibrated, capsys):
    before = [contents(run) for run in pair]
    scores = evaluate_ensemble(pair, split, calibrated=calibrated)
    assert [contents(run) for run in pair] == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == scores
    predicted = []
    for run in pair:
        temperature = read_json(run / "result.json")["temperature"] if calibrated else 1.0
        probabilities, labels = score(run, split)
        predicted.append(apply_temperature(probabilities, temperature))
    mean = np.mean(predicted, axis=0)
    assert scores["accuracy"] == np.mean((mean[:, 1] > 0.5) == (labels == 1))
    assert scores["loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean())
    assert scores["examples"] == len(labels)


def test_runs_of_the_same_reviews_in_another_order(finished, run_copy, tmp_path):
    """The hash of the data, which is the same, does not depend on the order of the test set."""
    header, *rows = corpus.SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "backwards.csv").write_text(header + "".join(rows[::-1]))
    path = str(tmp_path / "backwards.csv")
    runs.change_json(run_copy / "config.json", "data", source="csv", path=path)
    alone = evaluate_run(run_copy, "test")  # its data are found to be those of the run
    for workdirs in ([finished, run_copy], [run_copy, finished]):
        assert evaluate_ensemble(workdirs, "test") == pytest.approx(alone, abs=1e-6)


def test_runs_that_cannot_be_averaged(finished, run_copy):
    runs.change_json(run_copy / "env.json", "data", data_hash="0" * 64)
    message = rf"{finished} and {run_copy} were made with different data \(hash .* and 0{{12}}\)"
    with pytest.raises(InputError, match=message):
        evaluate_ensemble([finished, run_copy], "test")
    load_ensemble([finished, run_copy])  # which does not matter for texts
    runs.change_json(run_copy / "config.json", "data", labels="bad,good")
    message = "has the classes negative, positive, .* has bad, good: runs with different classes"
    with pytest.raises(InputError, match=message):
        load_ensemble([finished, run_copy])
