"""data.folds: each review is scored by a model that has not seen it, then one is trained on all."""

import csv
import shutil
import statistics
from unittest.mock import Mock

import numpy as np
import pytest
import runs
from reviews import write_csv
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.config.recipes import override
from sentiment_jax.config.validation import validate
from sentiment_jax.data.corpus import READERS
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.modes.evaluate import evaluate_ensemble, evaluate_run
from sentiment_jax.modes.report import report
from sentiment_jax.modes.sweep import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_run

FOLDS = {
    **runs.ONE_SHAPE,
    "data.vocabulary_size": 20,
    "data.folds": 3,
    "epochs": 4,
    "optimizer.learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def config(make_small):
    return make_small(**FOLDS)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("folds") / "run"
    train(config, workdir)
    return workdir


def test_each_review_is_scored_by_the_model_of_its_fold(run, config):
    result = read_json(run / "result.json")
    folds = [read_json(run / "folds" / f"{number}" / "result.json") for number in (1, 2, 3)]
    assert [fold["val"]["examples"] for fold in folds] == [20, 20, 20]
    assert result["folds"] == [f["val"] | {"best_epoch": f["best_epoch"]} for f in folds]
    assert result["val"]["examples"] == 60
    for name in ("loss", "accuracy"):
        mean = statistics.mean(fold["val"][name] for fold in folds)
        assert result["val"][name] == pytest.approx(mean)
    rows = list(csv.DictReader((run / "predictions-val.csv").read_text().splitlines()))
    pooled = {row["id"]: row for row in rows}
    for number in (1, 2, 3):
        of_fold = run / "folds" / f"{number}" / "predictions-val.csv"
        for row in csv.DictReader(of_fold.read_text().splitlines()):
            assert pooled.pop(row["id"]) == row
    assert not pooled and len(rows) == 60
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert right == pytest.approx(result["val"]["accuracy"])
    measured = result["metrics"]["val"]
    assert measured["log_loss"] == pytest.approx(result["val"]["loss"], rel=1e-4)
    assert sum(scores["examples"] for scores in measured["classes"].values()) == 60


def test_the_last_model_is_trained_on_all_for_the_median_of_the_best_epochs(run, config, tmp_path):
    result = read_json(run / "result.json")
    epochs = sorted(fold["best_epoch"] for fold in result["folds"])[1]
    assert result["best_epoch"] == result["epochs"] == epochs
    assert read_json(run / "env.json")["data"]["counts"]["val"] == {"neg": 0, "pos": 0}
    alone = override(config, {"data.folds": 0, "data.validation_fraction": 0.0, "epochs": epochs})
    alone.optimizer.schedule = "constant"  # the folds' schedule is over the epochs of the config
    config = override(config, {"optimizer.schedule": "constant"})
    assert train(alone, tmp_path / "alone")["test"] == train(config, tmp_path / "run")["test"]


class CountingStop(Stop):
    """A stop that is asked, and answers yes to one question."""

    def __init__(self, at=None):
        super().__init__()
        self.questions = 0
        self.at = at

    def asked(self):
        self.questions += 1
        return self.questions == self.at


def test_wherever_it_is_stopped_it_goes_on_to_the_same_run(run, config, tmp_path):
    counted = CountingStop()
    train(config, tmp_path / "whole", stop=counted)
    for at in np.linspace(2, counted.questions, 3).astype(int).tolist():
        workdir = tmp_path / f"{at}"
        with pytest.raises(Interrupted):
            train(config, workdir, stop=CountingStop(at))
        assert not (workdir / "result.json").exists()
        train(config, workdir)
        runs.assert_same_run(run, workdir)
        for name in ("predictions.csv", "predictions-val.csv"):
            assert (workdir / name).read_bytes() == (run / name).read_bytes()


def test_a_finished_fold_is_not_trained_again_and_keeps_no_checkpoints(run, config, tmp_path):
    assert not list((run / "folds").rglob("checkpoints"))
    workdir = shutil.copytree(run, tmp_path / "run")
    (workdir / "result.json").unlink()
    shutil.rmtree(workdir / "folds" / "2")
    train(config, workdir)
    for number in (1, 2, 3):
        log = (workdir / "folds" / f"{number}" / "log.txt").read_text()
        assert ("is finished; nothing to do" in log) == (number != 2)
    runs.assert_same_run(run, workdir)


def test_fresh_removes_the_folds_of_the_run_before(run, config, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    changed = override(config, {"seed": 1, "data.folds": 2})
    with pytest.raises(InputError, match="another config"):
        train(changed, workdir)
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(InputError, match="is a cross-validation, which can't change"):
        train(changed, workdir, allow_changes=True)
    with pytest.raises(InputError, match="is a cross-validation, which can't change"):
        train(override(config, {"data.folds": 0}), workdir, allow_changes=True)
    assert (workdir / "config.json").read_bytes() == before
    result = train(changed, workdir, fresh=True)
    assert len(result["folds"]) == 2
    assert {path.name for path in (workdir / "folds").iterdir()} == {"1", "2"}
    train(override(config, {"data.folds": 0}), workdir, fresh=True)
    assert not (workdir / "folds").exists()


def test_what_the_other_modes_do_with_it(run, config, tmp_path, capsys):
    result = read_json(run / "result.json")
    assert evaluate_run(run, "test") == result["test"]
    with pytest.raises(
        InputError, match="none are held out .* predictions-val.csv there have those of its folds"
    ):
        evaluate_run(run, "val")
    calibrated = evaluate_ensemble([run], "test", calibrated=True)
    assert load_run(run, calibrated=True).temperature == result["temperature"] != 1
    assert calibrated["loss"] != result["test"]["loss"]
    report([run], tmp_path / "report")
    deviation = statistics.stdev(fold["accuracy"] for fold in result["folds"])
    sentence = f"in 3 folds: accuracy {result['val']['accuracy']:.4f} ± {deviation:.4f}"
    assert sentence in (tmp_path / "report" / "report.md").read_text()
    pooled = read_predictions([Trial("run", run, RunDirectory(run).read_config())], "val")
    assert len(pooled.ids) == 60
    out = capsys.readouterr().out
    assert out.count("fold ") == 0  # a finished run prints none again


def test_the_data_are_read_once_and_the_lines_that_it_prints(config, tmp_path, capsys, monkeypatch):
    read = Mock(wraps=READERS["sample"])
    monkeypatch.setitem(READERS, "sample", read)
    result = train(config, tmp_path / "run")
    assert read.call_count == 1  # a file that changes meanwhile mixes no splits
    out = capsys.readouterr().out
    for number, fold in enumerate(result["folds"], start=1):
        line = f"fold {number}/3 accuracy {fold['accuracy']:.4f}  loss {fold['loss']:.4f}  on 20"
        assert f"{line} reviews (epoch {fold['best_epoch']}, the best)" in out
    deviation = statistics.stdev(fold["accuracy"] for fold in result["folds"])
    assert f"(3 folds ± {deviation:.4f}; then {result['epochs']} epochs on all)" in out
    assert f"epoch   1/{result['epochs']}" in out


def test_the_linear_baseline_is_cross_validated_on_the_same_folds(config, tmp_path):
    result = train(override(config, {"linear_baseline": True, "epochs": 1}), tmp_path / "run")
    baseline = result["linear_baseline"]
    assert baseline["val"]["examples"] == 60 and baseline["test"]["examples"] == 30
    reviews = prepare_experiment(load_run(tmp_path / "run").config).reviews["train"]
    with (tmp_path / "run" / "folds" / "1" / "predictions-val.csv").open() as file:
        held_out = {row["id"] for row in csv.DictReader(file)}
    rows = np.array([name in held_out for name in reviews.ids])
    features = TfidfVectorizer(ngram_range=(1, 2)).fit_transform(reviews.texts)
    model = LogisticRegression(C=baseline["C"], solver="liblinear")
    model.fit(features[~rows], reviews.labels[~rows])
    right = model.predict(features[rows]) == reviews.labels[rows]
    assert rows.sum() == 20 and right.sum() <= round(60 * baseline["val"]["accuracy"]) <= 60


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"data.folds": 1}, "data.folds=1, data.fold=0: 0, or 2 and more"),
        ({"data.folds": 3, "data.fold": 4}, "data.folds=3, data.fold=4"),
    ],
)
def test_folds_that_cannot_be(config, changes, problem):
    with pytest.raises(InputError, match=problem):
        validate(override(config, changes))


def test_a_fold_too_small_for_a_batch_is_found_before_the_first_is_trained(config, tmp_path):
    """Duplicates stay together: 30 of these 50 reviews are in one fold."""
    rows = [("the same film", "pos")] * 30 + [
        (f"film {i}", "neg" if i % 2 else "pos") for i in range(20)
    ]
    table = write_csv(tmp_path / "a.csv", rows)
    settings = {"data.source": "csv", "data.path": table, "data.limit": 0, "batch_size": 32}
    with pytest.raises(InputError, match="batch_size=32 is larger than the .* training reviews"):
        train(override(config, settings), tmp_path / "run")
    assert not (tmp_path / "run" / "folds").exists()
    assert not (tmp_path / "run" / "config.json").exists()


def test_an_auc_without_one_of_the_classes_is_undefined(config, tmp_path, capsys):
    rows = [(f"a fine film {i}", "pos") for i in range(40)] + [
        (f"dull {i}", "neg") for i in range(3)
    ]
    table = write_csv(tmp_path / "a.csv", rows)
    settings = {"data.source": "csv", "data.path": table, "select_by": "auc", "epochs": 1}
    train(override(config, settings), tmp_path / "run")
    logs = [path.read_text() for path in (tmp_path / "run" / "folds").glob("*/log.txt")]
    assert any(" auc undefined " in log for log in logs)


def test_a_fold_says_that_it_kept_no_checkpoint(run):
    with pytest.raises(InputError, match="is finished and kept no checkpoint, as a fold does"):
        load_run(run / "folds" / "1")


def test_a_pre_training_has_no_folds(config):
    with pytest.raises(InputError, match="no use for data.folds"):
        validate(config, pretraining=True)


def test_a_sweep_chooses_by_cross_validation(config, tmp_path):
    axes = {"procedure": "grid", "optimizer": ["adam"], "batch_size": [16]}
    axes |= {"learning_rate": [1e-9, 0.01], "seeds": [0]}
    sweep(override(config, {"epochs": 2}), tmp_path / "sweep", axes)
    results = {path.parent: read_json(path) for path in (tmp_path / "sweep").glob("*/result.json")}
    assert [result["val"]["examples"] for result in results.values()] == [60, 60]
    best = max(results, key=lambda p: (results[p]["val"]["accuracy"], -results[p]["val"]["loss"]))
    (final,) = (tmp_path / "sweep" / "final").glob("*/result.json")
    rates = [RunDirectory(p).read_config().optimizer.learning_rate for p in (final.parent, best)]
    report([tmp_path / "sweep"], tmp_path / "report")
    assert rates[0] == rates[1] and len(read_json(final)["folds"]) == 3
    assert len(list((tmp_path / "sweep").rglob("folds/3/result.json"))) == 3
