"""Whole runs on a few embedded reviews: the contract of the run directory, validation, best."""

import csv
import dataclasses
import errno
import os
import re
import types
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import runs

from sentiment_jax.analysis import figures
from sentiment_jax.analysis.records import collect
from sentiment_jax.config.recipes import override
from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.modes import train as train_mode
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import train
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training import scoring
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import mcnemar
from sentiment_jax.training.trained_model import load_run


def test_an_invalid_config_is_refused_before_anything_is_written(small_config, tmp_path):
    config = override(small_config, {"optimizer.frozen": "embeddings"})
    with pytest.raises(InputError, match="frozen keeps random embeddings: set model.pretrained"):
        train(config, tmp_path / "new")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lock"]


def test_the_run_directory_keeps_its_contract(finished):
    assert {path.name for path in finished.iterdir()} >= {
        *("config.json", "env.json", "tokenizer.json", "metrics.jsonl", "checkpoints"),
        *("result.json", "curves.png", "predictions.csv"),
    }
    result = read_json(finished / "result.json")
    assert result["model"] == "lstm"
    assert result["val"]["examples"] == 12
    assert result["test"]["examples"] == 30
    records = read_metrics(finished / "metrics.jsonl")
    assert [(r["step"], r["split"]) for r in records if r["split"] != "test"] == [
        *[(2, "train"), (3, "train"), (3, "val")],
        *[(4, "train"), (6, "train"), (6, "val")],
        *[(8, "train"), (9, "train"), (9, "val")],
    ]
    names = {"step", "epoch", "split", "loss", "accuracy", "examples", "seconds", "learning_rate"}
    assert all(set(record) == names for record in records)
    for epoch in (1, 2, 3):  # every example once an epoch
        lines = [r for r in records if r["epoch"] == epoch and r["split"] == "train"]
        assert sum(r["examples"] for r in lines) == 48
    validations = [record for record in records if record["split"] == "val"]
    best = max(validations, key=lambda r: (r["accuracy"], -r["loss"]))
    assert (result["best_step"], result["val"]["loss"]) == (best["step"], best["loss"])
    env = read_json(finished / "env.json")
    assert env["data"]["counts"]["train"] == {"neg": 24, "pos": 24}
    assert env["versions"]["jax"] == jax.__version__
    rows = list(csv.DictReader((finished / "predictions.csv").read_text().splitlines()))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert len(rows) == 30
    assert right / 30 == result["test"]["accuracy"]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_of_a_gpu_names_cuda_and_cudnn(monkeypatch):
    here = run_directory.describe_environment()
    assert not [name for name in here["versions"] if "nvidia" in name]
    wheels = {"nvidia-cudnn-cu12": "9.28.0", "jax-cuda12-plugin": "0.10.2", "torch": "2.13"}
    found = [types.SimpleNamespace(name=name, version=wheels[name]) for name in wheels]
    monkeypatch.setattr(run_directory.importlib.metadata, "distributions", lambda: found)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    env = run_directory.describe_environment()
    assert env["versions"].keys() - here["versions"].keys() == wheels.keys() - {"torch"}


def test_evaluate_gives_the_same_digits_and_a_split_has_files_of_its_own(run_copy):
    result = read_json(run_copy / "result.json")
    assert evaluate_run(run_copy, "test") == result["test"]
    before = (run_copy / "predictions.csv").read_bytes()
    assert evaluate_run(run_copy, "val") == result["val"]
    assert (run_copy / "predictions.csv").read_bytes() == before
    assert len((run_copy / "predictions-val.csv").read_text().splitlines()) == 1 + 12


def test_the_score_is_printed_even_if_nothing_can_be_written(run_copy, monkeypatch, capsys):
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "predictions.csv")
    monkeypatch.setattr(run_directory, "write_csv", Mock(side_effect=error))
    assert evaluate_run(run_copy, "test") == read_json(run_copy / "result.json")["test"]
    assert "warning: predictions not written: " in capsys.readouterr().err


def test_divergence_stops_and_saves_no_nan(small_config, tmp_path):
    changes = {"name": "sgd", "learning_rate": 1e30, "clip_norm": 0.0}
    config = override(small_config, {"optimizer": changes})
    with pytest.raises(RunError, match=r"diverged at step \d: .*rate 1e\+30, gradient norm"):
        train(config, tmp_path / "run")
    assert not steps_in(tmp_path / "run" / "checkpoints")


def test_nan_validation_is_never_best(small_config, tmp_path, monkeypatch):
    original = scoring.score_reviews
    second = iter((False, True, False))

    def second_is_nan(*args, **options):
        scores = original(*args, **options)
        if "validation" in args and next(second):
            scores = dataclasses.replace(scores, loss=float("nan"), accuracy=1.0)
        return scores

    monkeypatch.setattr(scoring, "score_reviews", second_is_nan)
    result = train(small_config, tmp_path / "run")
    assert result["best_epoch"] != 2
    *records, _ = read_metrics(tmp_path / "run" / "metrics.jsonl")
    losses = [record["loss"] for record in records]
    assert losses[5] is None  # NaN is no JSON
    assert losses.count(None) == 1
    saved = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert saved.bookkeeping(9)["records"] == records


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "auc"])
def test_the_best_epoch_by_another_metric(small_config, tmp_path, capsys, metric):
    """It stands in the epoch's line, in metrics.jsonl, in the curves and in the result."""
    config = override(small_config, {"select_by": metric, **runs.ONE_SHAPE, "epochs": 4})
    result = train(config, tmp_path / "run")
    lines = [line for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    lines = [line for line in lines if line["split"] == "val"]
    best = max(lines, key=lambda line: (line[metric], -line["loss"], line["epoch"]))
    assert (result["best_epoch"], result["val"][metric]) == (best["epoch"], best[metric])
    assert result["metrics"]["val"][metric] == best[metric]
    shown = [f" {metric.replace('_', ' ')} {line[metric]:.4f} " for line in lines]
    out = capsys.readouterr().out
    assert all(words in line for words, line in zip(shown, out.split("epoch   ")[1:], strict=True))
    usual = tmp_path / "usual.png"
    figures.curves({"": read_metrics(tmp_path / "run" / "metrics.jsonl")}, usual)
    assert usual.read_bytes() != (tmp_path / "run" / "curves.png").read_bytes()
    with pytest.raises(InputError, match=f"select_by: {metric} -> loss"):
        train(override(config, {"select_by": "loss"}), tmp_path / "run")


def test_early_stopping_counts_epochs_without_a_better_score(small_config, tmp_path):
    changes = {"epochs": 30, "early_stopping_patience": 2, "optimizer.learning_rate": 0.0}
    result = train(override(small_config, changes), tmp_path / "run")
    # Rate 0: every epoch ties with the first; the newest of equals is the best.
    assert (result["epochs"], result["best_epoch"], result["stopped_early"]) == (3, 3, True)


def test_a_refit_trains_on_all_reviews_for_the_epochs_set(small_config, tmp_path, capsys):
    changes = {"data.validation_fraction": 0.0, "early_stopping_patience": 1}
    config = override(small_config, changes)
    result = train(config, tmp_path / "run")
    output = capsys.readouterr().out
    assert "none: trained on all 60 reviews for the 3 epochs set" in output
    assert "early_stopping_patience did nothing" in output  # row 77
    assert (result["val"], result["best_epoch"], result["stopped_early"]) == ({}, 3, False)
    assert set(result["metrics"]) == {"test"}
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert sum(r["examples"] for r in records if r["split"] == "train") == 3 * 60
    assert {r["split"] for r in records} == {"train", "test"}
    assert evaluate_run(tmp_path / "run", "test") == result["test"]
    for ask in (
        lambda: evaluate_run(tmp_path / "run", "val"),
        lambda: load_run(tmp_path / "run", calibrated=True),
        lambda: collect([tmp_path / "run"]),
        lambda: plan_sweep(tmp_path, resolve(config), {}),
        lambda: pretrain(config, tmp_path / "pretrained"),
    ):
        with pytest.raises(InputError, match="validation_fraction"):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [4, 6])  # before the first epoch is saved; in the second
def test_a_stopped_refit_goes_on(small_config, tmp_path, steps):
    config = override(small_config, {"data.validation_fraction": 0.0, "epochs": 2})
    train(config, tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"saved step {steps};"):
        train(config, tmp_path / "stopped", stop=runs.stop_at(steps))
    train(config, tmp_path / "stopped")
    runs.assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_ends_with_the_linear_baseline_on_the_same_reviews(small_config, tmp_path, capsys):
    config = override(small_config, {"linear_baseline": True, "epochs": 1})
    result = train(config, tmp_path / "run")
    baseline = result["linear_baseline"]
    assert baseline["val"]["examples"] == 12
    assert baseline["test"]["examples"] == 30
    prepared = prepare_experiment(resolve(config))
    again = linear_baseline(prepared.reviews)
    assert baseline["test"] == again["test"]
    with (tmp_path / "run" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    correct = np.array([row["label"] == row["predicted"] for row in rows])
    labels = np.array([int(row["label"]) for row in rows])
    _, _, p = mcnemar(correct, np.array(again["predicted"]["test"]) == labels)
    assert baseline["mcnemar_p"] == p
    output = capsys.readouterr().out
    lead = result["test"]["accuracy"] - baseline["test"]["accuracy"]
    first = rf"linear   accuracy {baseline['test']['accuracy']:.4f} .* on 30 reviews \(TF-IDF.*\)"
    second = re.escape(f"         the model's accuracy minus this {lead:+.4f}, McNemar's p {p:.2g}")
    assert re.search(rf"^test .*\n{first}\n{second}", output, re.M)
    assert read_json(tmp_path / "run" / "result.json") == result


def test_the_baseline_sees_the_test_set_after_the_runs_own_score(
    small_config, tmp_path, monkeypatch
):
    calls = []
    for name in ("score_split", "linear_baseline"):
        function = getattr(train_mode, name)
        call = lambda *args, f=function, n=name, **kw: calls.append(n) or f(*args, **kw)  # noqa: E731
        monkeypatch.setattr(train_mode, name, call)
    config = override(small_config, {"linear_baseline": True, "epochs": 1})
    train(config, tmp_path / "trial", score_test=False)
    assert calls == []
    train(config, tmp_path / "run")
    assert calls == ["score_split", "linear_baseline"]
    train(override(config, {"linear_baseline": False}), tmp_path / "without")
    assert calls[2:] == ["score_split"]
    assert "linear_baseline" not in read_json(tmp_path / "without" / "result.json")


def test_a_run_is_finished_before_its_baseline_and_without_one_that_fails(
    small_config, tmp_path, monkeypatch, capsys
):
    def fail(reviews, folds):
        assert read_json(tmp_path / "run" / "result.json")["test"]["examples"] == 30
        raise MemoryError("too many n-grams")

    monkeypatch.setattr(train_mode, "linear_baseline", fail)
    result = train(override(small_config, {"linear_baseline": True, "epochs": 1}), tmp_path / "run")
    assert result == read_json(tmp_path / "run" / "result.json")
    assert "linear_baseline" not in result
    assert "warning: no linear baseline: too many n-grams" in capsys.readouterr().err
