"""Going on where a run stopped, bit for bit, and what is refused or reported on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs

from sentiment_jax import checkpoint, evaluate, finish, resume, task, train, writer
from sentiment_jax.errors import InputError, Interrupted, RunError

ROOT = Path(__file__).parent.parent
STEPS = 9  # three epochs of three batches


@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
def test_sigterm_saves_and_the_same_command_goes_on_exactly(
    plain, small_config, tmp_path, monkeypatch, step
):
    workdir = tmp_path / "stopped"
    add = resume.Bookkeeping.add

    def add_and_signal(book, *arguments):
        add(book, *arguments)
        if book.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(resume.Bookkeeping, "add", add_and_signal)
        with pytest.raises(Interrupted, match=r"saved step \d; run the same command"):
            train.train(small_config, workdir)
    assert not (workdir / "result.json").exists()
    train.train(small_config, workdir)
    runs.assert_same_run(plain, workdir)


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
    runs.assert_same_run(plain, workdir)


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
    runs.assert_same_run(plain, workdir)


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
    runs.assert_same_run(plain, tmp_path / "again")


def test_every_checkpoint_bad_is_an_error(plain, small_config):
    (plain / "result.json").unlink()
    for step in checkpoint.steps_in(plain / "checkpoints"):
        damage(plain, step)
    with pytest.raises(RunError, match="damaged checkpoints in .*step 9"):
        task.load_run(plain)
    with pytest.raises(RunError, match="every checkpoint in .* is bad .*step 9.*--fresh"):
        train.train(small_config, plain)


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
