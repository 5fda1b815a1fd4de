"""Temperatures and means of several runs, in predict and evaluate."""

import json

import numpy as np
import pytest
import sweeping

from sentiment_jax.data import corpus
from sentiment_jax.data.labels import decide
from sentiment_jax.data.table import Table
from sentiment_jax.errors import InputError
from sentiment_jax.modes.evaluate import evaluate_ensemble, evaluate_run
from sentiment_jax.modes.predict import predict, predict_table, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import scoring
from sentiment_jax.training.calibration import apply_temperature, fit_temperature, log_loss
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.trained_model import load_ensemble, load_run

TEXTS = ["a good film", "", "dull and bad", "очень плохой фильм", *(f"scene {i}" for i in range(9))]


@pytest.fixture(scope="module")
def three(finished, make_small, tmp_path_factory):
    """Runs of the same data that differ in seed, vocabulary and length."""
    workdirs = [finished]
    for seed in (1, 2):
        config = make_small()
        config.update_from_flattened_dict({"seed": seed, "epochs": 1, "data.min_frequency": seed})
        config.update_from_flattened_dict({"data.max_length": 24 - seed, "eval_batch_size": 16})
        workdirs.append(tmp_path_factory.mktemp("mean") / f"seed{seed}")
        train(config, workdirs[-1])
    sizes = {load_run(workdir).tokenizer.get_vocab_size() for workdir in workdirs}
    assert len(sizes) > 1, "one tokenizer would do for all"
    return workdirs


def score(workdir, split):
    """Probabilities and labels of a split, without a word about files."""
    trained = load_run(workdir)
    encoded = prepare_experiment(trained.config, trained.tokenizer).encoded[split]
    return scoring.score_reviews(trained, trained.params, encoded, split), encoded.labels


def test_a_run_keeps_the_temperature_of_its_best_epochs_validation(finished):
    scores, labels = score(finished, "val")
    kept = read_json(finished / "result.json")["temperature"]
    assert kept == fit_temperature(scores.probabilities, labels)
    assert 0.1 <= kept <= 10 and kept != 1.0
    assert load_run(finished).temperature == 1.0  # off by default
    assert load_run(finished, calibrated=True).temperature == kept
    calibrated = apply_temperature(scores.probabilities, kept)
    assert log_loss(calibrated, labels) <= log_loss(scores.probabilities, labels)


def test_a_calibrated_prediction_is_the_same_verdict_at_another_probability(finished):
    plain, warnings = predict([load_run(finished)], TEXTS)
    trained = load_run(finished, calibrated=True)
    calibrated, again = predict([trained], TEXTS)
    assert warnings == again
    np.testing.assert_array_equal(decide(calibrated), decide(plain))
    odds, plain_odds = (np.diff(np.log(p.astype(float))) for p in (calibrated, plain))
    np.testing.assert_allclose(odds, plain_odds / trained.temperature, atol=1e-6)


def test_a_training_that_goes_on_has_a_temperature_too(plain):
    kept = read_json(plain / "result.json")["temperature"]
    (plain / "result.json").unlink()
    assert load_run(plain, calibrated=True).temperature == kept


@pytest.mark.parametrize("calibrated", [False, True])
def test_the_mean_equals_the_mean_of_single_predictions(three, calibrated, capsys):
    mean = load_ensemble(three, calibrated=calibrated)
    singles = [predict([load_run(run, calibrated=calibrated)], TEXTS) for run in three]
    together, warnings = predict(mean, TEXTS)
    np.testing.assert_allclose(together, np.mean([p for p, _ in singles], axis=0), atol=1e-7)
    assert warnings == singles[0][1]
    capsys.readouterr()
    print_predictions(mean, TEXTS)
    assert len(capsys.readouterr().out.splitlines()) == len(TEXTS)
    predict_table(mean, Table.from_texts(TEXTS))
    header, *rows = capsys.readouterr().out.splitlines()
    assert header == "row,predicted,p_positive,warning" and len(rows) == len(TEXTS)
    assert [row.split(",")[2] for row in rows] == [f"{p:.6f}" for p in together[:, 1]]


def test_a_word_that_one_of_the_runs_lacks_is_warned_of(three):
    runs = [load_run(workdir) for workdir in three[1:]]
    often, once = (set(run.tokenizer.get_vocab()) for run in reversed(runs))  # min_frequency
    word = min(once - often)
    assert [predict([run], [word])[1] for run in runs] == [[""], ["100 % unknown words"]]
    assert predict(load_ensemble(three[1:]), [word])[1] == ["100 % unknown words"]


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("split", ["val", "test"])
def test_the_mean_is_scored_and_nothing_is_written(three, split, calibrated, capsys):
    before = [sweeping.contents(run) for run in three]
    scores = evaluate_ensemble(three, split, calibrated=calibrated)
    assert [sweeping.contents(run) for run in three] == before
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == scores
    found, temperatures = [score(run, split) for run in three], [1.0] * 3
    if calibrated:
        temperatures = [read_json(run / "result.json")["temperature"] for run in three]
    labels = found[0][1]
    runs = zip(found, temperatures, strict=True)
    mean = np.mean([apply_temperature(one.probabilities, t) for (one, _), t in runs], axis=0)
    assert scores["accuracy"] == np.mean((mean[:, 1] > 0.5) == (labels == 1))
    assert scores["loss"] == pytest.approx(-np.log(mean[np.arange(len(labels)), labels]).mean())
    assert scores["examples"] == len(labels)


def test_a_mean_of_one_run_scores_what_the_run_scores(finished, run_copy):
    plain = evaluate_run(run_copy, "val")
    assert evaluate_ensemble([finished], "val") == pytest.approx(plain, abs=1e-6)
    calibrated = evaluate_ensemble([finished], "val", calibrated=True)
    assert calibrated["accuracy"] == plain["accuracy"] and calibrated["loss"] < plain["loss"]


def test_runs_of_the_same_reviews_in_another_order(finished, run_copy, tmp_path):
    """The hash of the data, which is the same, does not tell the order of the test set."""
    header, *rows = corpus.SAMPLE.read_text().splitlines(keepends=True)
    (tmp_path / "backwards.csv").write_text(header + "".join(rows[::-1]))
    config = read_json(run_copy / "config.json")
    config["data"] |= {"source": "csv", "path": str(tmp_path / "backwards.csv")}
    write_json(run_copy / "config.json", config)
    alone = evaluate_run(run_copy, "test")  # its data are found to be those of the run
    for runs in ([finished, run_copy], [run_copy, finished]):
        assert evaluate_ensemble(runs, "test") == pytest.approx(alone, abs=1e-6)


def test_runs_that_have_no_mean(finished, run_copy):
    env = read_json(run_copy / "env.json")
    env["data"]["data_hash"] = "0" * 64
    write_json(run_copy / "env.json", env)
    message = rf"{finished} and {run_copy} were made with different data \(hash .* and 0{{12}}\)"
    with pytest.raises(InputError, match=message):
        evaluate_ensemble([finished, run_copy], "test")
    load_ensemble([finished, run_copy])  # which is no matter for texts
    config = read_json(run_copy / "config.json")
    config["data"]["labels"] = "bad,good"
    write_json(run_copy / "config.json", config)
    with pytest.raises(InputError, match="tells negative, positive, .* tells bad, good: there is"):
        load_ensemble([finished, run_copy])


def test_a_run_of_an_earlier_revision_is_told_its_temperature_by_its_validation(plain, capsys):
    directory = RunDirectory(plain)
    result = read_json(directory.result)
    kept = result.pop("temperature")
    write_json(directory.result, result)
    load_run(plain)
    with pytest.raises(InputError, match="keeps no temperature.*--mode=evaluate --split=val"):
        load_run(plain, calibrated=True)
    evaluate_run(plain, "test")
    assert read_json(directory.result) == result
    evaluate_run(plain, "val")
    assert read_json(directory.result) == result | {"temperature": kept}
    written = directory.result.read_bytes()
    evaluate_run(plain, "val")
    assert directory.result.read_bytes() == written
    assert load_run(plain, calibrated=True).temperature == kept
