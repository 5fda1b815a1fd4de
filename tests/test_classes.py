"""Three classes from a table to the report: every mode, and what each of them says."""

import contextlib
import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import runs
from reviews import read_table, refuses, write_csv
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from sweeping import ONE_TRIAL

from sentiment_jax.analysis.integrated_gradients import explain
from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.labels import average_thresholds
from sentiment_jax.data.texts import Texts, fold_splits, of_numbers, stratified_split
from sentiment_jax.errors import InputError
from sentiment_jax.models.outputs import SOFTMAX
from sentiment_jax.modes import report, sweep
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.explain import explain_texts
from sentiment_jax.modes.export import model_card
from sentiment_jax.modes.predict import TextSource, predict, predict_table, print_predictions
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.tasks import classification
from sentiment_jax.training.tasks.classification import CLASSIFICATION, with_classes
from sentiment_jax.training.trained_model import load_run

WORDS = {"bad": "awful dull dreary", "Fair": "plain usual middling", "good": "lovely witty superb"}
NAMES = ("bad", "Fair", "good")


def rows(**counts):
    """Texts of each class, of random words between two of its own."""
    rng = np.random.default_rng(0)
    fill = [f"word{i}" for i in range(60)]
    return [
        (" ".join([*rng.choice(WORDS[label].split(), 2), *rng.choice(fill, 8)]), label)
        for label, count in counts.items()
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def make_config(tmp_path_factory):
    """A config for texts of so many of each class."""

    def make(changes, **counts):
        path = write_csv(tmp_path_factory.mktemp("data") / "a.csv", rows(**counts))
        settings = {"data.source": "csv", "data.path": path, "data.limit": 0, "data.test_limit": 0}
        return runs.make_small(**runs.ONE_SHAPE, **settings, **changes)

    return make


@pytest.fixture(scope="module")
def config(make_config):
    return make_config({"epochs": 8, "optimizer.learning_rate": 2e-2}, bad=40, Fair=40, good=40)


@pytest.fixture(scope="module")
def printed(config, tmp_path_factory):
    """The directory of a run, and what it printed on stdout and stderr."""
    workdir = tmp_path_factory.mktemp("classes") / "run"
    streams = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        train(config, workdir)
    return workdir, *(stream.getvalue() for stream in streams)


@pytest.fixture
def run(printed):
    return printed[0]


@pytest.fixture(scope="module")
def trained(printed):
    return load_run(printed[0])


def test_a_sound_run_prints_no_warning_and_the_users_own_examples(printed, config):
    _, shown, errors = printed
    assert errors == ""
    texts = {text for text, _ in csv.reader(Path(config.data.path).read_text().splitlines())}
    assert sum(line.partition(" %  ")[2] in texts for line in shown.splitlines()) == 4, shown


def test_a_run_keeps_the_names(run, config, capsys):
    assert read_json(run / "config.json")["data"]["labels"] == "bad,Fair,good"
    assert read_json(run / "env.json")["data"]["counts"]["test"] == {"bad": 8, "Fair": 8, "good": 8}
    header, *found = csv.reader((run / "predictions.csv").read_text().splitlines())
    assert header == ["id", "label", "predicted", "p_bad", "p_Fair", "p_good"]
    for _, label, predicted, *p in found:
        assert label in NAMES and predicted == NAMES[np.argmax(list(map(float, p)))]
        assert sum(map(float, p)) == pytest.approx(1, abs=3e-6)
    result = read_json(run / "result.json")
    right = np.mean([label == predicted for _, label, predicted, *_ in found])
    assert right == result["test"]["accuracy"] > 0.8
    assert "balanced_accuracy" not in result["val"]  # which chose the epoch by accuracy
    assert list(result["metrics"]["val"]["classes"]) == list(NAMES)
    assert result["metrics"]["test"]["auc"] > 0.9  # the mean of one class against the rest
    train(config, run)  # the user's config says nothing of the names
    assert "is finished" in capsys.readouterr().out


def test_a_stopped_run_resumes(run, config, tmp_path):
    """With a config that says nothing of the names; other ones are refused as other data."""
    copy = shutil.copytree(run, tmp_path / "run")
    before = read_json(copy / "result.json")
    (copy / "result.json").unlink()
    refuses("the data changed", train, override(config, {"data.labels": "good,Fair,bad"}), copy)
    again = train(config, copy)
    assert again["metrics"] == before["metrics"] and again["test"] == before["test"]


def test_classes_that_were_asked_for_are_kept_whatever_their_names(config):
    """Of three, these two: without their names, evaluate would find the third again."""
    frozen = resolve(config)
    assert with_classes(frozen, Texts.from_texts(["a"])).data.labels == ""
    named = replace_settings(frozen, {"data.labels": "negative,positive"})
    assert with_classes(named, Texts.from_texts(["a"])).data.labels == "negative,positive"


def test_evaluate_and_predict(run, trained, tmp_path, capsys):
    result = read_json(run / "result.json")
    assert evaluate_split([run], "val") == result["val"]
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result["val"]
    p, _ = predict([trained], ["awful dull", "plain usual", "witty superb"])
    assert p.shape == (3, 3) and p.argmax(axis=1).tolist() == [0, 1, 2]
    (tmp_path / "a.txt").write_text("plain usual\n\n")
    predict_table([trained], TextSource(file=str(tmp_path / "a.txt")).read(DataConfig()))
    header, first, blank = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["row", "predicted", "p_bad", "p_Fair", "p_good", "warning"]
    assert first[:2] == ["1", "Fair"] and float(first[3]) == pytest.approx(p[1, 1], abs=1e-6)
    assert blank[5] == "no text"
    print_predictions([trained], ["witty superb"])
    assert capsys.readouterr().out == f"good {100 * p[2, 2]:5.1f} %  witty superb\n"


@pytest.mark.parametrize("towards", range(3))
def test_attributions_sum_to_the_log_odds_of_the_class(trained, towards):
    """Log-odds against all other classes together: completeness for each of them."""
    text = "plain usual word1 word2"
    explanation = explain(trained, text, towards)
    (p,), _ = predict([trained], [text])
    odds = np.log(p[towards] / np.delete(p, towards).sum())
    assert explanation.log_odds == pytest.approx(odds, abs=1e-3)
    pushes = sum(word.attribution for word in explanation.words)
    whole = explanation.log_odds - explanation.empty_log_odds
    assert explanation.complete and pushes == pytest.approx(whole, abs=max(0.01 * abs(whole), 1e-4))


def test_words_are_explained_towards_the_predicted_class(trained, tmp_path, capsys):
    texts = ["awful dull word1", "plain usual word1"]
    explain_texts(trained, ["1", "2"], texts, tmp_path / "a.html")
    shown = capsys.readouterr().out
    for name, label, word in ("1", "bad", "awful"), ("2", "Fair", "plain"):
        assert f"{name}: {label} " in shown and f"to {label}: " in shown
        pushed = shown.partition(f"to {label}: ")[2].partition("\n")[0]
        assert word in pushed
    assert "away from it" in shown
    assert "blue words pushed to the predicted class" in (tmp_path / "a.html").read_text()


def test_a_sweep_and_its_report(config, tmp_path):
    sweep.sweep(override(config, {"epochs": 1}), tmp_path / "sweep", ONE_TRIAL | {"seeds": (0, 1)})
    assert read_json(tmp_path / "sweep" / "sweep.json")["config"]["data"]["labels"] == ""
    for path in (tmp_path / "sweep").glob("**/config.json"):
        assert read_json(path)["data"]["labels"] == "bad,Fair,good"
    report.report([tmp_path / "sweep"], tmp_path / "report")
    assert [row["class"] for row in read_table(tmp_path / "report" / "classes.csv")] == list(NAMES)
    (row,) = read_table(tmp_path / "report" / "metrics.csv")
    assert float(row["majority baseline"]) == pytest.approx(1 / 3)
    tests = [read_json(p) for p in (tmp_path / "sweep/final").glob("*/result.json")]
    for column in ("balanced accuracy", "macro f1", "auc"):
        name = column.replace(" ", "_")
        mean = np.mean([test["metrics"]["test"][name] for test in tests])
        assert float(row[column]) == pytest.approx(mean)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Fair" in page and "McNemar" not in page  # one model


def test_of_many_classes_the_worst_are_shown(tmp_path, capsys):
    names = [f"intent{i:02}" for i in range(13)]
    rows = [(f"{name if i % 9 else ''} word{i}", name) for name in names for i in range(20)]
    path = write_csv(tmp_path / "a.csv", rows)
    data = {"data.source": "csv", "data.path": path, "data.limit": 0, "data.test_limit": 0}
    config = runs.make_small(**runs.ONE_SHAPE, **data, epochs=2, linear_baseline=True)
    measured = train(config, tmp_path / "run")["metrics"]["test"]["classes"]
    shown = capsys.readouterr().out
    assert (
        "labels   intent00 (0), intent01 (1), intent02 (2), intent03 (3), intent04 (4) and 8"
        in shown
    )
    recall = sorted(scores["recall"] for scores in measured.values())
    printed = re.findall(r"(intent..): precision .*, recall (0\.\d+) of 4 texts", shown)
    assert [float(of) for _, of in printed] == pytest.approx(recall[:10], abs=1e-4)
    last = f"and 3 more classes, recall from {recall[10]:.4f} to {recall[12]:.4f}"
    assert last in shown and "10 more" not in shown
    report.report([tmp_path / "run"], tmp_path / "report")
    assert not (tmp_path / "report" / "confusion.png").exists()
    assert len(read_table(tmp_path / "report" / "classes.csv")) == 13
    page = (tmp_path / "report" / "report.html").read_text()
    assert "The ten classes of the lowest recall; classes.csv has all 13." in page
    rows = re.findall(r"<td[^>]*>(intent\d\d)</td>", page)
    assert {name for name, _ in printed} <= {*rows}
    pairs = read_table(tmp_path / "report" / "confused.csv")
    assert all(row["label"] != row["predicted"] for row in pairs) and 0 < len(pairs) <= 10
    card = model_card(tmp_path / "run")
    assert "intent04 and 8 more, trained" in card and "\n| train | 169 |\n" in card


def test_a_thousand_classes_of_five_reviews_are_split():
    names = tuple(f"intent {i}" for i in range(1000))
    labels = [i for i in range(1000) for _ in range(5)]
    reviews = Texts.from_texts(map(str, range(5000)), labels, classes=names)
    kept, held_out = stratified_split(reviews, 0.1, seed=0)
    assert np.bincount(reviews.codes[held_out]).tolist() == [1] * 1000
    for fold, rest in fold_splits(reviews.take(kept), 3, seed=0):
        assert len({*reviews.take(kept).codes[fold].tolist()}) == 1000 and len(rest)
    with pytest.raises(InputError) as caught:
        stratified_split(reviews.take(np.arange(0, 5000, 5)), 0.1, seed=0)
    assert "1 intent 4 and 995 more texts cannot be split" in str(caught.value)


def test_thresholds_are_shares_to_the_power_of_the_best_scores():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], (10, 95, 95)).astype(np.int32)
    p = rng.dirichlet((1, 4, 4), 200) + 0.2 * np.eye(3)[labels]  # either score alone has another
    p /= p.sum(axis=1, keepdims=True)
    shares = np.array([11, 96, 96]) / 203
    scores = {}
    for power in classification.POWERS:
        predicted = (p / shares**power).argmax(axis=1)
        macro = f1_score(labels, predicted, average="macro")
        scores[power] = np.mean(predicted == labels) + macro
    best = max(scores, key=scores.get)
    assert 0 < best < 1, scores
    found = classification.fit(of_numbers(labels, 3), p)["thresholds"]
    np.testing.assert_allclose(found, shares**best / np.sum(shares**best))
    even = np.repeat([0, 1, 2], 60).astype(np.int32)
    assert "thresholds" not in classification.fit(of_numbers(even, 3), p[:180])
    assert average_thresholds([[0.1, 0.3, 0.6], []], 3) == pytest.approx([13 / 60, 19 / 60, 7 / 15])


def test_a_rare_class_has_a_threshold_that_every_mode_uses(
    make_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(classification, "POWERS", (0.75,))
    changes = {"epochs": 3, "optimizer.learning_rate": 3e-3}
    config = make_config(changes, bad=12, Fair=60, good=60)
    result = train(config, tmp_path / "run")
    low, *_ = thresholds = result["thresholds"]
    assert sum(thresholds) == pytest.approx(1) and low == min(thresholds) < 0.33
    shown = capsys.readouterr().out
    assert f"macro f1 {result['val']['macro_f1']:.4f}" in shown
    header, *rows = csv.reader((tmp_path / "run" / "predictions.csv").read_text().splitlines())
    p = np.array([row[3:] for row in rows], float)
    predicted = [NAMES[i] for i in (p / thresholds).argmax(axis=1)]
    assert [row[2] for row in rows] == predicted
    assert predicted != [NAMES[i] for i in p.argmax(axis=1)], "the thresholds change nothing"
    assert evaluate_split([tmp_path / "run"], "test") == result["test"]
    for calibrated in (False, True):
        trained = load_run(tmp_path / "run", calibrated=calibrated)
        texts = list(load_dataset(trained.config.data).splits["test"].texts)
        found, _ = predict([trained], texts)
        decided = trained.kind.decide(found, trained.thresholds)
        assert trained.kind.cells(NAMES, decided) == predicted
    assert load_run(tmp_path / "run").config.data.rare
    row = next(i for i in range(len(p)) if predicted[i] != NAMES[p[i].argmax()])
    explain_texts(load_run(tmp_path / "run"), ["1"], [texts[row]], tmp_path / "a.html")
    shown = capsys.readouterr().out
    assert f"1: {predicted[row]} " in shown and f"to {predicted[row]}: " in shown
    card = model_card(tmp_path / "run")
    assert "largest ratio of its probability to its threshold" in card
    train(config, tmp_path / "run")  # the user's config says nothing of it
    assert "is finished" in capsys.readouterr().out


def test_texts_that_no_teacher_has_labeled_do_not_count_in_class_weights():
    labels = np.array([0, 1, 1, 1, -1, -1], np.int32)
    weights = SOFTMAX.balanced_weights(of_numbers(labels, 2))
    assert weights == pytest.approx((2, 2 / 3))


def test_unequal_classes_are_weighted_and_guessing_is_printed(make_config, tmp_path, capsys):
    """Validation has the balanced accuracy; the last lines say what the larger class gives."""
    changes = {"class_weights": "balanced", "optimizer.learning_rate": 0.0, "epochs": 1}
    config = make_config(changes, bad=15, good=60)
    experiment = CLASSIFICATION.prepare(resolve(config))
    labels = experiment.texts["train"].codes
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    assert experiment.objective.class_weights == pytest.approx(expected)
    assert expected[0] > 3 * expected[1]
    result = train(config, tmp_path / "run")
    measured = result["metrics"]
    assert result["val"]["macro_f1"] == measured["val"]["macro_f1"]  # a class is rare
    shown, errors = capsys.readouterr()
    assert "labels   bad (0), good (1); good is positive" in shown
    assert "always saying 'good' gives 0.8000" in shown and "balanced accuracy 0.5" in shown
    assert "bad: precision 0." in shown and "of 12 texts" in shown
    assert "no better than guessing" in errors and "(majority baseline: 0.8" in errors
    assert measured["test"]["majority_baseline"] == 0.8
    evaluate_split([tmp_path / "run"], "test")
    assert "always saying 'good' gives 0.8000" in capsys.readouterr().out
