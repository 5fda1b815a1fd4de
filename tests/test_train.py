"""Whole runs on a few embedded reviews: the contract of the run directory, and exact resumption."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import bert
from sentiment_jax import checkpoint, devices, evaluate, finish, resume, task, train, writer
from sentiment_jax.errors import InputError, Interrupted, RunError

ROOT = Path(__file__).parent.parent
STEPS = 9  # three epochs of three batches


def final_state(workdir):
    """Parameters and optimiser state of the last checkpoint, as numpy."""
    checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", read_only=True)
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        folder = checkpoints.directory / str(checkpoints.steps[-1])
        return [
            jax.tree.map(np.asarray, reader.restore(folder / n)) for n in ("params", "opt_state")
        ]


def metrics(workdir):
    """metrics.jsonl without what a clock decides."""
    records = writer.read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_run(first, second):
    jax.tree.map(np.testing.assert_array_equal, final_state(first), final_state(second))
    assert metrics(first) == metrics(second)
    timings = ("train_seconds", "compile_seconds", "test_seconds")
    results = [writer.read_json(run / "result.json") for run in (first, second)]
    for result in results:
        for name in timings:
            del result[name]
    assert results[0] == results[1]
    assert (first / "predictions.csv").read_text() == (second / "predictions.csv").read_text()


@pytest.fixture
def plain(finished, tmp_path):
    """A copy of the uninterrupted run."""
    return shutil.copytree(finished, tmp_path / "plain")


def test_the_run_directory_keeps_its_contract(plain, small_config):
    assert {path.name for path in plain.iterdir()} >= {
        *("config.json", "env.json", "tokenizer.json", "metrics.jsonl", "checkpoints"),
        *("result.json", "curves.png", "predictions.csv"),
    }
    result = writer.read_json(plain / "result.json")
    assert result["model"] == "lstm"
    assert result["val"]["examples"] == 12
    assert result["test"]["examples"] == 30
    records = writer.read_metrics(plain / "metrics.jsonl")
    assert [(r["step"], r["split"]) for r in records if r["split"] != "test"] == [
        *[(2, "train"), (3, "train"), (3, "val")],
        *[(4, "train"), (6, "train"), (6, "val")],
        *[(8, "train"), (9, "train"), (9, "val")],
    ]
    seen = {"step", "epoch", "split", "loss", "accuracy", "examples", "seconds", "learning_rate"}
    assert all(set(record) == seen for record in records)
    # Every example once an epoch.
    for epoch in (1, 2, 3):
        lines = [r for r in records if r["epoch"] == epoch and r["split"] == "train"]
        assert sum(r["examples"] for r in lines) == 48
    best = max(
        (r for r in records if r["split"] == "val"), key=lambda r: (r["accuracy"], -r["loss"])
    )
    assert (result["best_step"], result["val"]["loss"]) == (best["step"], best["loss"])
    env = writer.read_json(plain / "env.json")
    assert env["data"]["counts"]["train"] == {"neg": 24, "pos": 24}
    assert env["versions"]["jax"] == jax.__version__
    rows = list(csv.DictReader((plain / "predictions.csv").read_text().splitlines()))
    right = sum(row["label"] == row["predicted"] for row in rows)
    assert len(rows) == 30
    assert right / 30 == result["test"]["accuracy"]
    assert (plain / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_gives_the_same_digits(plain):
    result = writer.read_json(plain / "result.json")
    assert finish.evaluate_run(plain, "test") == result["test"]
    assert finish.evaluate_run(plain, "val") == result["val"]


@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
def test_sigterm_saves_and_the_same_command_goes_on_exactly(
    plain, small_config, tmp_path, monkeypatch, step
):
    workdir = tmp_path / "stopped"
    add = resume.Bookkeeping.add

    def add_and_signal(book, sums, seconds):
        add(book, sums, seconds)
        if book.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(resume.Bookkeeping, "add", add_and_signal)
        with pytest.raises(Interrupted, match=r"saved step \d; run the same command"):
            train.train(small_config, workdir)
    assert not (workdir / "result.json").exists()
    train.train(small_config, workdir)
    assert_same_run(plain, workdir)


def test_a_signal_during_validation_loses_nothing(plain, small_config, tmp_path, monkeypatch):
    workdir = tmp_path / "stopped"
    original = evaluate.make_eval_step

    def signal_first(model):
        os.kill(os.getpid(), signal.SIGINT)
        return original(model)

    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "make_eval_step", signal_first)
        with pytest.raises(Interrupted, match="saved step 3"):
            train.train(small_config, workdir)
    train.train(small_config, workdir)
    assert_same_run(plain, workdir)


def test_sigkill_and_the_same_command_again(plain, small_config, tmp_path):
    workdir = tmp_path / "killed"
    overrides = [
        f"--config.{name}={value}"
        for name, value in {
            "epochs": 3,
            "log_every": 2,
            "checkpoint_every": 3,
            "early_stopping_patience": 0,
            "data.limit": 60,
            "data.test_limit": 30,
            "data.max_length": 24,
            "data.length_buckets": "(12,)",
            "model.embedding_size": 8,
            "model.hidden_size": 6,
            "model.dense_size": 5,
        }.items()
    ]
    command = [sys.executable, "-m", "sentiment_jax.main", "--config=configs/lstm.py:sample"]
    log = workdir / "metrics.jsonl"
    with subprocess.Popen(
        [*command, f"--workdir={workdir}", *overrides], cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= 4):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
    assert not (workdir / "result.json").exists()
    train.train(small_config, workdir)
    assert_same_run(plain, workdir)


def test_a_finished_run_says_so_and_writes_nothing(plain, small_config, capsys):
    before = {path: path.stat().st_mtime_ns for path in plain.rglob("*") if path.name != "lock"}
    result = train.train(small_config, plain)
    assert result == writer.read_json(plain / "result.json")
    assert "is finished" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in plain.rglob("*") if path.name != "lock"}
    assert {p: t for p, t in after.items() if p.is_file()} == {
        p: t for p, t in before.items() if p.is_file()
    }


def test_another_config_is_refused_field_by_field(plain, small_config):
    small_config.batch_size = 8
    small_config.optimizer.learning_rate = 0.5
    with pytest.raises(InputError, match=r"batch_size: 16 -> 8; optimizer.learning_rate: 0.003"):
        train.train(small_config, plain)


def test_allowed_changes_are_recorded(plain, small_config):
    small_config.epochs = 4
    train.train(small_config, plain, allow_changes=True)
    assert writer.read_json(plain / "env.json")["resumed_with_changes"] == [["epochs: 3 -> 4"]]
    assert writer.read_json(plain / "result.json")["epochs"] == 4


def test_other_data_are_refused(plain, small_config, tmp_path):
    (plain / "result.json").unlink()
    env = writer.read_json(plain / "env.json")
    env["data"]["data_hash"] = "0" * 64
    writer.write_json(plain / "env.json", env)
    with pytest.raises(InputError, match="the data changed since .*hash 000000000000"):
        train.train(small_config, plain)
    with pytest.raises(InputError, match="the data changed"):
        finish.evaluate_run(plain, "val")


def test_fresh_starts_over_and_leaves_other_files(plain, small_config):
    (plain / "notes.txt").write_text("mine")
    small_config.seed = 5
    train.train(small_config, plain, fresh=True)
    assert writer.read_json(plain / "result.json")["seed"] == 5
    assert (plain / "notes.txt").read_text() == "mine"


def damage(workdir, step):
    (workdir / "checkpoints" / str(step) / "params" / "manifest.ocdbt").write_bytes(b"")


def test_a_damaged_checkpoint_costs_only_its_steps(plain, small_config, tmp_path, capsys):
    (plain / "result.json").unlink()
    damage(plain, STEPS)
    train.train(small_config, plain)
    assert "going on from step 6, 3 steps are computed again" in capsys.readouterr().err
    train.train(small_config, tmp_path / "again")
    assert_same_run(plain, tmp_path / "again")


def test_every_checkpoint_bad_is_an_error(plain, small_config):
    (plain / "result.json").unlink()
    for step in checkpoint.steps_in(plain / "checkpoints"):
        damage(plain, step)
    with pytest.raises(RunError, match="damaged checkpoints in .*step 9"):
        task.load_run(plain)
    with pytest.raises(RunError, match="every checkpoint in .* is bad .*step 9.*--fresh"):
        train.train(small_config, plain)


def test_divergence_stops_and_saves_no_nan(small_config, tmp_path):
    small_config.optimizer.name = "sgd"
    small_config.optimizer.learning_rate = 1e30
    small_config.optimizer.clip_norm = 0.0
    with pytest.raises(
        RunError, match=r"diverged at step \d: .*learning rate 1e\+30, gradient norm"
    ):
        train.train(small_config, tmp_path / "run")
    for step in checkpoint.steps_in(tmp_path / "run" / "checkpoints"):
        raise AssertionError(f"step {step} was saved")


def test_nan_validation_is_never_best(small_config, tmp_path, monkeypatch):
    original = evaluate.evaluate
    calls = []

    def second_is_nan(*args, **options):
        scores = original(*args, **options)
        if options["description"] == "validation":
            calls.append(scores)
            if len(calls) == 2:
                object.__setattr__(scores, "loss", float("nan"))
                object.__setattr__(scores, "accuracy", 1.0)
        return scores

    monkeypatch.setattr(evaluate, "evaluate", second_is_nan)
    result = train.train(small_config, tmp_path / "run")
    assert len(calls) == 3
    assert result["best_epoch"] != 2
    json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[5])


def test_early_stopping_counts_epochs_without_a_better_score(small_config, tmp_path):
    small_config.epochs = 30
    small_config.early_stopping_patience = 2
    small_config.optimizer.learning_rate = 0.0
    result = train.train(small_config, tmp_path / "run")
    # Rate 0: every epoch ties with the first; the newest of equals is the best.
    assert (result["epochs"], result["best_epoch"], result["stopped_early"]) == (3, 3, True)


def test_bert_takes_the_same_path(tmp_path):
    config = bert.get_config("tiny")
    config.epochs = 2
    config.data.limit = 40
    config.data.test_limit = 12
    config.data.max_length = 16
    config.data.length_buckets = ()
    config.model.hidden_size = config.model.embedding_size = 16
    config.model.intermediate_size = 16
    config.optimizer.layerwise_decay = 0.5
    train.train(config, tmp_path / "a")
    train.train(config, tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert finish.evaluate_run(tmp_path / "a", "test")["examples"] == 12


def test_restored_parameters_are_on_all_devices(plain):
    trained = task.load_run(plain)
    leaf = jax.tree.leaves(trained.params)[0]
    assert leaf.sharding.is_equivalent_to(devices.replicated(trained.mesh), leaf.ndim)


def test_another_tokenizer_of_the_same_size_is_refused(plain, small_config):
    path = plain / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    ids = vocabulary["model"]["vocab"]
    first, second = list(ids)[-2:]
    ids[first], ids[second] = ids[second], ids[first]
    path.write_text(json.dumps(vocabulary))
    (plain / "result.json").unlink()
    for use in (
        lambda: task.load_run(plain),
        lambda: finish.evaluate_run(plain, "val"),
        lambda: train.train(small_config, plain),
    ):
        with pytest.raises(
            InputError, match=r"tokenizer.json is not the tokenizer .* trained with"
        ):
            use()
