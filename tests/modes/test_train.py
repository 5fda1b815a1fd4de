"""Whole runs on a few embedded texts: the contract of the run directory, validation, best."""

import dataclasses
import errno
import math
import os
import re
import types
from unittest.mock import Mock

import jax
import numpy as np
import pytest
import runs
from reviews import read_table, refuses

import sentiment_jax
from sentiment_jax.analysis import figures
from sentiment_jax.analysis.records import collect
from sentiment_jax.config.recipes import override
from sentiment_jax.data import batches, predictions
from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.modes import train as train_mode
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.train import train
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training import metrics, scoring, steps
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import mcnemar
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.resume import initial_params
from sentiment_jax.training.steps import create_state
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_run

QUICK = {**runs.ONE_SHAPE, "checkpoint_every": 100}
BASELINE = {**QUICK, "epochs": 1, "linear_baseline": True}


def test_the_run_directory_keeps_its_contract(finished):
    assert {path.name for path in finished.iterdir()} >= {
        *("config.json", "env.json", "tokenizer.json", "metrics.jsonl", "checkpoints"),
        *("result.json", "curves.png", "predictions.csv"),
    }
    result = read_json(finished / "result.json")
    assert result["model"] == "lstm" and "linear_baseline" not in result
    records = read_metrics(finished / "metrics.jsonl")
    lines = ["train", "train", "val"]  # steps 2 and 3 of an epoch, which has 3
    assert [record["split"] for record in records] == lines * 3 + ["test"]
    assert [record["step"] for record in records[:-1]] == [2, 3, 3, 4, 6, 6, 8, 9, 9]
    names = {"step", "epoch", "split", "loss", "accuracy", "examples", "seconds", "learning_rate"}
    assert all(set(record) == names for record in records)
    for epoch in (1, 2, 3):  # every example once an epoch
        seen = [r["examples"] for r in records if (r["epoch"], r["split"]) == (epoch, "train")]
        assert sum(seen) == 48
    validations = [record for record in records if record["split"] == "val"]
    best = max(validations, key=lambda r: (r["accuracy"], -r["loss"]))
    assert (result["best_step"], result["val"]["loss"]) == (best["step"], best["loss"])
    assert (result["val"]["examples"], result["test"]["examples"]) == (12, 30)
    env = read_json(finished / "env.json")
    assert env["data"]["counts"]["train"] == {"neg": 24, "pos": 24}
    assert env["versions"]["jax"] == jax.__version__
    rows = read_table(finished / "predictions.csv")
    right = [row["label"] == row["predicted"] for row in rows]
    assert len(rows) == 30 and np.mean(right) == result["test"]["accuracy"]
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


def test_evaluate_gives_the_same_digits_and_writes_what_training_wrote(run_copy):
    result = read_json(run_copy / "result.json")
    for split, name in (("test", "predictions.csv"), ("val", "predictions-val.csv")):
        path = run_copy / name
        before = path.read_bytes()
        path.unlink()
        assert evaluate_split([run_copy], split) == result[split]
        assert path.read_bytes() == before
        assert before.count(b"\n") == 1 + result[split]["examples"]


def test_the_score_is_printed_even_if_nothing_can_be_written(run_copy, monkeypatch, capsys):
    error = OSError(errno.EROFS, os.strerror(errno.EROFS), "predictions.csv")
    monkeypatch.setattr(predictions, "write_csv", Mock(side_effect=error))
    assert evaluate_split([run_copy], "test") == read_json(run_copy / "result.json")["test"]
    assert "warning: predictions not written: " in capsys.readouterr().err


def test_the_seed_decides_parameters_dropout_and_the_batches_of_each_epoch(tmp_path, monkeypatch):
    plan = Mock(wraps=batches.plan_epoch)
    monkeypatch.setattr(batches, "plan_epoch", plan)
    config = runs.make_small(**QUICK, seed=7, epochs=2)
    train(config, tmp_path, tested=False)
    planned = [(call.kwargs["seed"], call.kwargs["epoch"]) for call in plan.call_args_list]
    assert planned == [(7, 0), (7, 1)]
    seeded = [resolve(override(config, {"seed": seed})) for seed in (7, 8)]
    drawn = [initial_params(CLASSIFICATION.prepare(config))[0] for config in seeded]
    assert not np.any(drawn[0]["dense"]["kernel"] == drawn[1]["dense"]["kernel"])
    states = [create_state(drawn[0], config.optimizer, config.seed) for config in seeded]
    assert states[0].key == jax.random.key(7) != states[1].key


def test_divergence_stops_and_saves_no_nan(tmp_path):
    changes = {"name": "sgd", "learning_rate": 1e30, "clip_norm": 0.0}
    with pytest.raises(RunError, match=r"diverged at step \d: .*rate 1e\+30, gradient norm"):
        train(runs.make_small(optimizer=changes, **QUICK), tmp_path / "run")
    assert not steps_in(tmp_path / "run" / "checkpoints")


def test_nan_validation_is_never_best(tmp_path, monkeypatch):
    score_texts = scoring.score_texts
    validated = []

    def second_is_nan(*arguments, **options):
        found = score_texts(*arguments, **options)
        validated.append(found)
        nan = dataclasses.replace(found, scores=found.scores | {"loss": math.nan, "accuracy": 1.0})
        return nan if len(validated) == 2 else found

    monkeypatch.setattr(scoring, "score_texts", second_is_nan)
    assert train(runs.make_small(), tmp_path, tested=False)["best_epoch"] != 2
    records = read_metrics(tmp_path / "metrics.jsonl")
    losses = [record["loss"] for record in records]
    assert losses[5] is None  # NaN is no JSON
    assert losses.count(None) == 1
    saved = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert saved.bookkeeping(9)["records"] == records


def test_a_small_split_is_not_padded_to_a_whole_batch(tmp_path, monkeypatch):
    spy = Mock(wraps=batches.make_batch)
    monkeypatch.setattr(batches, "make_batch", spy)
    train(runs.make_small(**QUICK, epochs=1, eval_batch_size=100), tmp_path)
    counts = read_json(tmp_path / "env.json")["data"]["counts"]
    val = sum(counts["val"].values())
    test = sum(counts["test"].values())
    sizes = {(len(call.args[0]), call.args[2]) for call in spy.call_args_list}
    assert val < test < 100 and {(val, val), (test, test)} < sizes


@pytest.mark.parametrize(
    "metric", ["balanced_accuracy", "auc", pytest.param("macro_f1", marks=pytest.mark.slow)]
)
def test_the_best_epoch_by_another_metric(tmp_path, capsys, metric, painted):
    config = runs.make_small(select_by=metric, **QUICK, epochs=4)
    result = train(config, tmp_path / "run")
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    lines = [line for line in records if line["split"] == "val"]
    best = max(lines, key=lambda line: (line[metric], -line["loss"], line["epoch"]))
    assert (result["best_epoch"], result["val"][metric]) == (best["epoch"], best[metric])
    assert result["metrics"]["val"][metric] == best[metric]
    shown = [f" {metric.replace('_', ' ')} {line[metric]:.4f} " for line in lines]
    out = capsys.readouterr().out
    assert all(words in line for words, line in zip(shown, out.split("epoch   ")[1:], strict=True))
    figures.curves({"": records}, tmp_path / "usual.png")
    assert (tmp_path / "run" / "curves.png").read_bytes() != (tmp_path / "usual.png").read_bytes()
    with pytest.raises(InputError, match=f"select_by: {metric} -> loss"):
        train(override(config, {"select_by": "loss"}), tmp_path / "run")


@pytest.mark.parametrize(("killed", "left"), [(3, []), (5, [4]), (9, [4, 8])])
def test_with_select_by_last_no_other_epoch_is_a_candidate(tmp_path, monkeypatch, killed, left):
    """Nor saved, but for the steps of checkpoint_every; three epochs of three steps."""
    config = runs.make_small(select_by="last", checkpoint_every=4)
    result = train(config, tmp_path / "whole")
    assert (result["best_epoch"], result["best_step"]) == (3, 9)
    lines = [r for r in read_metrics(tmp_path / "whole" / "metrics.jsonl") if r["split"] == "val"]
    assert len(lines) == 3 and result["val"]["loss"] == lines[-1]["loss"]
    run = tmp_path / "killed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Progress, "add", runs.at_step(killed, Mock(side_effect=KeyboardInterrupt)))
        train(config, run)
    assert steps_in(run / "checkpoints") == left
    refuses("no validated checkpoint|no checkpoint", load_run, run)
    train(config, run)
    runs.assert_same_run(tmp_path / "whole", run)


def test_the_first_step_has_the_first_rate_of_the_schedule(tmp_path, monkeypatch):
    make = steps.make_train_step
    rates = []

    def watch(*arguments):
        step = make(*arguments)

        @jax.jit
        def watched(state, batch, learning_rate):
            jax.debug.callback(rates.append, learning_rate, ordered=True)
            return step(state, batch, learning_rate)

        return watched

    monkeypatch.setattr(steps, "make_train_step", watch)
    changes = {"optimizer.learning_rate": 0.3, "optimizer.schedule": "linear"}
    changes |= {"optimizer.warmup_fraction": 0.0, "epochs": 1}
    train(runs.make_small(**QUICK | changes), tmp_path)
    jax.effects_barrier()
    assert np.array(rates) == pytest.approx([0.3, 0.2, 0.1])


def test_an_auc_without_one_of_the_classes_is_undefined(tmp_path, monkeypatch, capsys):
    """As in a fold that holds out none of a rare class."""
    measure = metrics.measure
    monkeypatch.setattr(metrics, "measure", lambda *of: measure(*of) | {"auc": None})
    result = train(runs.make_small(**QUICK, epochs=1, select_by="auc"), tmp_path)
    assert " auc undefined " in capsys.readouterr().out
    assert (result["best_epoch"], result["val"]["auc"]) == (1, None)


def test_early_stopping_counts_epochs_without_a_better_score(tmp_path):
    changes = {"epochs": 30, "early_stopping_patience": 2, "optimizer.learning_rate": 0.0}
    result = train(runs.make_small(**QUICK | changes), tmp_path)
    # Rate 0: every epoch ties with the first; the newest of equals is the best.
    assert (result["epochs"], result["best_epoch"], result["stopped_early"]) == (3, 3, True)


@pytest.fixture(scope="module")
def refit(tmp_path_factory):
    """The config and the directory of a run that holds out no texts; not to be changed."""
    changes = {"data.validation_fraction": 0.0, "epochs": 2, "early_stopping_patience": 1}
    config = runs.make_small(**runs.ONE_SHAPE, **changes, checkpoint_every=6)
    workdir = tmp_path_factory.mktemp("refit")
    train(config, workdir)
    return config, workdir


def test_a_refit_trains_on_all_reviews_for_the_epochs_set(refit, tmp_path):
    config, workdir = refit
    result = read_json(workdir / "result.json")
    assert (result["val"], result["best_epoch"], result["stopped_early"]) == ({}, 2, False)
    assert set(result["metrics"]) == {"test"}
    records = read_metrics(workdir / "metrics.jsonl")
    assert sum(r["examples"] for r in records if r["split"] == "train") == 2 * 60
    assert {r["split"] for r in records} == {"train", "test"}
    assert evaluate_split([workdir], "test") == result["test"]
    for ask in (
        lambda: evaluate_split([workdir], "val"),
        lambda: load_run(workdir, calibrated=True),
        lambda: collect([workdir]),
        lambda: plan_sweep(tmp_path, resolve(config), {}),
        lambda: pretrain(config, tmp_path / "pretrained"),
    ):
        refuses("validation_fraction", ask)


@pytest.mark.parametrize("steps", [4, 6])  # before the first epoch is saved; in the second
def test_a_stopped_refit_goes_on(refit, tmp_path, capsys, steps):
    config, whole = refit
    with pytest.raises(Interrupted, match=f"saved step {steps};"):
        train(config, tmp_path, stop=runs.stop_at(steps))
    train(config, tmp_path)
    runs.assert_same_run(whole, tmp_path)
    printed = capsys.readouterr().out
    assert "none: trained on all 60 texts for the 2 epochs set" in printed
    assert "early_stopping_patience did nothing" in printed


def test_a_run_ends_with_the_linear_baseline_on_the_same_reviews(tmp_path, capsys):
    config = runs.make_small(**BASELINE)
    result = train(config, tmp_path)
    baseline = result["linear_baseline"]
    assert (baseline["val"]["examples"], baseline["test"]["examples"]) == (12, 30)
    again = linear_baseline(CLASSIFICATION.prepare(resolve(config)).texts, CLASSIFICATION.fit)
    assert baseline["test"] == again["test"]
    rows = read_table(tmp_path / "predictions.csv")
    correct = np.array([row["label"] == row["predicted"] for row in rows])
    _, _, p = mcnemar(correct, np.array(again["correct"]["test"]))
    assert baseline["mcnemar_p"] == p
    lead = result["test"]["accuracy"] - baseline["test"]["accuracy"]
    first = rf"linear   accuracy {baseline['test']['accuracy']:.4f} .* on 30 texts \(TF-IDF.*\)"
    second = re.escape(f"         the model's accuracy minus this {lead:+.4f}, McNemar's p {p:.2g}")
    assert re.search(rf"^test .*\n{first}\n{second}", capsys.readouterr().out, re.M)
    assert read_json(tmp_path / "result.json") == result


def test_each_epoch_is_handed_to_functions_and_no_training_to_the_test_split(tmp_path):
    seen = []

    def log(training, progress, validation):
        assert "test" not in training.experiment.encoded | training.experiment.texts
        seen.append((progress.epochs_done, validation.scores["loss"], training.log.records[-1]))

    sentiment_jax.train(runs.make_small(epochs=2), tmp_path, after_epoch=[log])
    losses = [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl") if r["split"] == "val"]
    assert [loss for _, loss, _ in seen] == losses and [epoch for epoch, *_ in seen] == [1, 2]
    assert all(record["loss"] == loss for _, loss, record in seen)


def test_the_baseline_of_a_run_may_fail(tmp_path, monkeypatch, capsys):
    """A trial of a sweep, which leaves the test set alone, has none."""

    baseline = Mock(side_effect=MemoryError("too many n-grams"))
    monkeypatch.setattr(train_mode, "linear_baseline", baseline)
    config = runs.make_small(**BASELINE)
    trial = train(config, tmp_path / "trial", tested=False)
    assert "test" not in trial and set(trial["metrics"]) == {"val"}
    assert not (tmp_path / "trial" / "predictions.csv").exists() and not baseline.called
    result = train(config, tmp_path / "run")
    assert result == read_json(tmp_path / "run" / "result.json")
    assert "linear_baseline" not in result
    assert "warning: no linear baseline: too many n-grams" in capsys.readouterr().err
