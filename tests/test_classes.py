"""Three classes from a table to the report: every mode, and what each of them says."""

import csv
import json
import shutil

import numpy as np
import pytest
from reviews import read_table, write_csv

from sentiment_jax.analysis.integrated_gradients import explain
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError
from sentiment_jax.modes import report, sweep
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.predict import TextSource, predict, predict_table, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import with_classes
from sentiment_jax.training.trained_model import load_run

WORDS = {"bad": "awful dull dreary", "Fair": "plain usual middling", "good": "lovely witty superb"}
NAMES = ("bad", "Fair", "good")


def rows(**counts):
    """Reviews of each class, of random words between two of its own."""
    rng = np.random.default_rng(0)
    fill = [f"word{i}" for i in range(20)]
    return [
        (" ".join([*rng.choice(WORDS[label].split(), 2), *rng.choice(fill, 8)]), label)
        for label, count in counts.items()
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def config(make_small, tmp_path_factory):
    path = write_csv(tmp_path_factory.mktemp("data") / "a.csv", rows(bad=40, Fair=40, good=40))
    config = make_small()
    settings = {"data.source": "csv", "data.path": path, "data.limit": 0, "data.test_limit": 0}
    settings |= {"data.length_buckets": (), "epochs": 8, "optimizer.learning_rate": 2e-2}
    config.update_from_flattened_dict(settings)
    return config


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes") / "run"
    train(config, workdir)
    return workdir


def read_rows(text):
    return list(csv.reader(text.splitlines()))


def test_a_run_keeps_the_names(run, config, capsys):
    assert read_json(run / "config.json")["data"]["labels"] == "bad,Fair,good"
    counts = read_json(run / "env.json")["data"]["counts"]
    assert counts["test"] == {"bad": 8, "Fair": 8, "good": 8}
    header, *found = read_rows((run / "predictions.csv").read_text())
    assert header == ["id", "label", "predicted", "p_bad", "p_Fair", "p_good"]
    for _, label, predicted, *p in found:
        assert label in NAMES and predicted == NAMES[np.argmax(list(map(float, p)))]
        assert sum(map(float, p)) == pytest.approx(1, abs=3e-6)
    result = read_json(run / "result.json")
    right = np.mean([label == predicted for _, label, predicted, *_ in found])
    assert right == result["test"]["accuracy"] > 0.8
    assert list(result["metrics"]["val"]["classes"]) == list(NAMES)
    assert result["metrics"]["test"]["auc"] > 0.9  # the mean of one class against the rest
    train(config, run)  # the user's config says nothing of the names
    assert "is finished" in capsys.readouterr().out


def test_a_stopped_run_resumes(run, config, tmp_path):
    """With a config that says nothing of the names; other ones are refused as other data."""
    copy = shutil.copytree(run, tmp_path / "run")
    before = read_json(copy / "result.json")
    (copy / "result.json").unlink()
    other = config.copy_and_resolve_references()
    other.data.labels = "good,Fair,bad"
    with pytest.raises(InputError, match="the data changed"):
        train(other, copy)
    again = train(config, copy)
    assert again["metrics"] == before["metrics"] and again["test"] == before["test"]


def test_classes_that_were_asked_for_are_kept_whatever_their_names(config):
    """Of three, these two: without their names, evaluate would find the third again."""
    frozen = resolve(config)
    assert with_classes(frozen, Reviews.from_texts(["a"])).data.labels == ""
    named = replace_settings(frozen, {"data.labels": "negative,positive"})
    assert with_classes(named, Reviews.from_texts(["a"])).data.labels == "negative,positive"


def test_evaluate_and_predict(run, tmp_path, capsys):
    result = read_json(run / "result.json")
    capsys.readouterr()
    assert evaluate_run(run, "val") == result["val"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result["val"]
    trained = load_run(run)
    p, _ = predict([trained], ["awful dull", "plain usual", "witty superb"])
    assert p.shape == (3, 3) and p.argmax(axis=1).tolist() == [0, 1, 2]
    (tmp_path / "a.txt").write_text("plain usual\n\n")
    predict_table([trained], TextSource(file=str(tmp_path / "a.txt")).read())
    header, first, blank = read_rows(capsys.readouterr().out)
    assert header == ["row", "predicted", "p_bad", "p_Fair", "p_good", "warning"]
    assert first[:2] == ["1", "Fair"] and float(first[3]) == pytest.approx(p[1, 1], abs=1e-6)
    assert blank[5] == "no text"
    print_predictions([trained], ["witty superb"])
    assert capsys.readouterr().out == f"good {100 * p[2, 2]:5.1f} %  witty superb\n"


@pytest.mark.parametrize("towards", range(3))
def test_attributions_sum_to_the_log_odds_of_the_class(run, towards):
    """Log-odds against all other classes together: completeness for each of them."""
    trained = load_run(run)
    text = "plain usual word1 word2"
    explanation = explain(trained, text, towards)
    (p,), _ = predict([trained], [text])
    odds = np.log(p[towards] / np.delete(p, towards).sum())
    assert explanation.log_odds == pytest.approx(odds, abs=1e-3)
    pushes = sum(word.attribution for word in explanation.words)
    whole = explanation.log_odds - explanation.empty_log_odds
    assert explanation.complete and pushes == pytest.approx(whole, abs=max(0.01 * abs(whole), 1e-4))


def test_words_are_explained_towards_the_predicted_class(run, tmp_path, capsys):
    texts = ["awful dull word1", "plain usual word1"]
    explain_texts(load_run(run), ["1", "2"], texts, tmp_path / "a.html")
    shown = capsys.readouterr().out
    for name, label, word in ("1", "bad", "awful"), ("2", "Fair", "plain"):
        assert f"{name}: {label} " in shown and f"to {label}: " in shown
        pushed = shown.partition(f"to {label}: ")[2].partition("\n")[0]
        assert word in pushed
    assert "away from it" in shown
    assert "blue words pushed to the predicted class" in (tmp_path / "a.html").read_text()


@pytest.mark.slow
def test_a_sweep_and_its_report(config, tmp_path, capsys):
    """Trials take the classes from the reviews that they share; a report names them."""
    axes = {"procedure": "grid", "optimizer": ("adam",), "batch_size": (16,)}
    axes |= {"learning_rate": (3e-3, 1e-6), "seeds": (0, 1)}
    sweep.sweep(config, tmp_path / "sweep", axes)
    assert read_json(tmp_path / "sweep" / "sweep.json")["config"]["data"]["labels"] == ""
    for path in (tmp_path / "sweep").glob("**/config.json"):
        assert read_json(path)["data"]["labels"] == "bad,Fair,good"
    report.report([tmp_path / "sweep"], tmp_path / "report")
    classes = read_table(tmp_path / "report" / "classes.csv")
    assert [row["class"] for row in classes] == list(NAMES)
    (row,) = read_table(tmp_path / "report" / "metrics.csv")
    assert float(row["majority baseline"]) == pytest.approx(1 / 3) and float(row["auc"]) > 0.9
    tests = [read_json(p) for p in (tmp_path / "sweep/final").glob("*/result.json")]
    for column, name in ("balanced accuracy", "balanced_accuracy"), ("macro f1", "macro_f1"):
        mean = np.mean([test["metrics"]["test"][name] for test in tests])
        assert float(row[column]) == pytest.approx(mean)
    page = (tmp_path / "report" / "report.md").read_text()
    assert "Fair" in page and "McNemar" not in page  # one model


def test_balanced_weights_choose_the_epoch_by_balanced_accuracy(make_small, tmp_path):
    """The epoch with the best accuracy may be that of the larger class's share."""
    config = make_small()
    path = write_csv(tmp_path / "a.csv", rows(bad=15, good=60))
    settings = {"data.source": "csv", "data.path": path, "data.length_buckets": (), "epochs": 2}
    config.update_from_flattened_dict({**settings, "class_weights": "balanced"})
    found = train(config, tmp_path / "run")
    assert found["val"]["balanced_accuracy"] == found["metrics"]["val"]["balanced_accuracy"]


def test_the_majority_baseline_of_unequal_classes_is_printed(make_small, tmp_path, capsys):
    """More than 60:40: the last lines say what the larger class alone would have given."""
    config = make_small()
    path = write_csv(tmp_path / "a.csv", rows(bad=15, good=60))
    settings = {"data.source": "csv", "data.path": path, "optimizer.learning_rate": 0.0}
    config.update_from_flattened_dict({**settings, "data.length_buckets": (), "epochs": 1})
    result = train(config, tmp_path / "run")
    shown, errors = capsys.readouterr()
    assert "labels   bad (0), good (1); good is positive" in shown
    assert "always saying 'good' gives 0.8000" in shown and "balanced accuracy 0.5" in shown
    assert "bad: precision 0." in shown and "of 12 reviews" in shown
    assert "no better than guessing" in errors and "(the largest class: 0.8" in errors
    assert result["metrics"]["test"]["majority_baseline"] == 0.8
    assert "balanced_accuracy" not in result["val"]  # which chose the epoch by accuracy
    evaluate_run(tmp_path / "run", "test")
    assert "always saying 'good' gives 0.8000" in capsys.readouterr().out
