"""Going on where a run stopped, bit for bit, and what is refused or reported on the way."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import runs
from commands import SAMPLE, run, start
from sweeping import contents

from sentiment_jax.config.recipes import override
from sentiment_jax.errors import DiskFull, InputError, Interrupted, RunError
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import Checkpoints, steps_in
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import scoring
from sentiment_jax.training.resume import _check_best
from sentiment_jax.training.run import Progress
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_run

STEPS = 9  # three epochs of three batches


@pytest.fixture
def resumed(plain, small_config, tmp_path, monkeypatch):
    """Train with a function replaced, which ends the run; then again, to an uninterrupted run."""

    def call(owner, name, replacement, error, match, saved=None):
        workdir = tmp_path / "stopped"
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, replacement)
            with pytest.raises(error, match=match):
                train(small_config, workdir)
        assert not (workdir / "result.json").exists()
        if saved is not None:
            assert Checkpoints(workdir / "checkpoints", read_only=True).steps == saved
        train(small_config, workdir)
        runs.assert_same_run(plain, workdir)

    return call


@pytest.mark.parametrize("step", [1, 3, 5, STEPS])
def test_sigterm_saves_and_the_same_command_goes_on_exactly(resumed, step):
    terminate = runs.at_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    resumed(Progress, "add", terminate, Interrupted, r"saved step \d; run the same command")


def test_a_signal_during_validation_loses_nothing(resumed):
    original = scoring.make_eval_step

    def signal_first(model):
        os.kill(os.getpid(), signal.SIGINT)
        return original(model)

    resumed(scoring, "make_eval_step", signal_first, Interrupted, "saved step 3")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize(("step", "saved"), [(1, []), (4, [3])])
def test_an_exception_right_after_a_save_or_before_the_first(resumed, step, saved, error):
    def fail():
        raise error("now")

    resumed(Progress, "add", runs.at_step(step, fail), error, "now", saved)


def test_a_full_disk_costs_nothing_once_there_is_room(resumed, tmp_path):
    usage = shutil.disk_usage

    def full_at_the_second_save(path):
        used = usage(path)
        return used._replace(free=7) if list(tmp_path.glob("*/checkpoints/3")) else used

    message = r"disk full: 7 bytes free in .* \d[\d,]+ needed for .* step 6"
    resumed(shutil, "disk_usage", full_at_the_second_save, DiskFull, message, [3])


@pytest.mark.parametrize(
    ("signals", "code"),
    [([signal.SIGKILL], -signal.SIGKILL), ([signal.SIGTERM, signal.SIGINT], 143)],
    ids=["SIGKILL", "two signals"],
)
def test_killed_and_the_same_command_again(plain, small_config, tmp_path, signals, code):
    workdir = tmp_path / "killed"
    log = workdir / "metrics.jsonl"
    flags = runs.small_flags()
    with start(SAMPLE, *flags, f"--workdir={workdir}", stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (log.exists() and log.read_text().count("\n") >= 4):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        for number in signals:
            process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == code
    assert "Traceback" not in errors and "saved step" not in errors
    assert not (workdir / "result.json").exists()
    train(small_config, workdir)
    runs.assert_same_run(plain, workdir)


def test_a_finished_run_is_reported_as_such_and_nothing_is_written(plain, small_config, capsys):
    before = contents(plain)
    assert train(small_config, plain) == read_json(plain / "result.json")
    assert "is finished; nothing to do" in capsys.readouterr().out
    assert runs.without_lock(contents(plain)) == runs.without_lock(before)


def test_another_config_is_refused_field_by_field_or_recorded(plain, small_config):
    other = override(small_config, {"batch_size": 8, "optimizer.learning_rate": 0.5})
    with pytest.raises(InputError, match=r"batch_size: 16 -> 8; optimizer.learning_rate: 0.003"):
        train(other, plain)
    train(override(small_config, {"epochs": 4}), plain, allow_changes=True)
    assert read_json(plain / "env.json")["resumed_with_changes"] == [["epochs: 3 -> 4"]]
    assert read_json(plain / "result.json")["epochs"] == 4


def test_another_environment_ends_the_promise_in_one_line(plain, small_config, capsys):
    directory = RunDirectory(plain)
    env = read_json(directory.env)
    write_json(directory.env, env | {"xla_flags": "--other", "python": "3.99"})
    directory.result.unlink()
    train(small_config, plain)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "guessing" not in line)
    assert line.startswith("warning: not bit-exact from here on: python was 3.99, is ")
    assert "xla_flags was --other, is " in line
    directory.result.unlink()
    train(small_config, plain)  # the same environment as the last time
    assert capsys.readouterr().err == ""
    starts = read_json(directory.env)["resumed"]
    assert [start["python"] for start in starts] == [env["python"]] * 2


def test_other_data_are_refused(plain, small_config):
    (plain / "result.json").unlink()
    env = read_json(plain / "env.json")
    env["data"]["data_hash"] = "0" * 64
    write_json(plain / "env.json", env)
    with pytest.raises(InputError, match="the data changed since .*hash 000000000000"):
        train(small_config, plain)
    with pytest.raises(InputError, match="the data changed"):
        evaluate_run(plain, "val")


def test_checkpoints_without_their_config_are_refused(plain, small_config):
    for name in ("result.json", "config.json"):
        (plain / name).unlink()
    with pytest.raises(InputError, match="holds checkpoints but no config.json: .*--fresh"):
        train(override(small_config, {"seed": 5}), plain)
    assert steps_in(plain / "checkpoints")


@pytest.mark.parametrize("fault", ["lost", "changed"])
def test_a_damaged_log_is_made_whole_on_resuming(plain, finished, small_config, fault):
    (plain / "result.json").unlink()
    shutil.rmtree(plain / "checkpoints" / str(STEPS))
    log = plain / "metrics.jsonl"
    if fault == "lost":
        log.unlink()
    else:
        log.write_bytes(log.read_bytes().replace(b"0.", b"1.").replace(b"train", b"tr\xffin"))
    train(small_config, plain)
    runs.assert_same_run(finished, plain)


def test_fresh_removes_the_run_alone_once_what_replaces_it_is_read(plain, small_config):
    (plain / "notes.txt").write_text("mine")
    before = contents(plain)
    for changes, message in (
        ({"data.source": "csv", "data.path": "reviws.csv"}, "cannot read the table reviws.csv"),
        ({"batch_size": 4096}, "batch_size=4096 is larger than"),
    ):
        with pytest.raises(InputError, match=message):
            train(override(small_config, changes), plain, fresh=True)
    assert runs.without_lock(contents(plain)) == runs.without_lock(before)
    train(override(small_config, {"seed": 5}), plain, fresh=True)
    assert read_json(plain / "result.json")["seed"] == 5
    assert (plain / "notes.txt").read_text() == "mine"


def damage(checkpoints, step):
    (checkpoints / str(step) / "params" / "manifest.ocdbt").write_bytes(b"")


def test_a_damaged_checkpoint_costs_only_its_steps(plain, finished, small_config, capsys):
    (plain / "result.json").unlink()
    damage(plain / "checkpoints", STEPS)
    train(small_config, plain)
    assert "resuming at step 6, 3 steps are recomputed" in capsys.readouterr().err
    runs.assert_same_run(finished, plain)


def test_every_checkpoint_bad_is_an_error(plain, small_config):
    best = read_json(plain / "result.json")["best_step"]
    for step in steps_in(plain / "checkpoints"):
        damage(plain / "checkpoints", step)
    with pytest.raises(RunError, match=f"checkpoint of step {best} in .* is damaged"):
        load_run(plain)
    (plain / "result.json").unlink()
    with pytest.raises(RunError, match="checkpoint of step 9 in .* is damaged"):
        load_run(plain)
    for found in ("step 9", "found before"):  # the second time as well: never from scratch
        with pytest.raises(RunError, match=f"every checkpoint in .* is damaged .*{found}.*--fresh"):
            train(small_config, plain)


def test_the_best_checkpoint_lost_is_an_error_at_once(tmp_path):
    """Later ones count on it, and would only find out when training has ended."""
    checkpoints = Checkpoints(tmp_path)
    progress = Progress(best={"step": 3})
    for step in (3, 6, 9):
        weights = {"w": np.zeros(2, np.float32)}
        checkpoints.save(step, weights, weights, {}, best=3)
    _check_best(Checkpoints(tmp_path), progress)
    damage(tmp_path, 3)
    for _ in range(2):  # also when it has been set aside before
        with pytest.raises(RunError, match=r"best checkpoint \(step 3\) is damaged.*--fresh"):
            _check_best(Checkpoints(tmp_path), progress)
    assert (tmp_path / "3.corrupt").is_dir()


def test_another_tokenizer_of_the_same_size_is_refused(plain, small_config):
    path = plain / "tokenizer.json"
    vocabulary = json.loads(path.read_text())
    ids = vocabulary["model"]["vocab"]
    first, second = list(ids)[-2:]
    ids[first], ids[second] = ids[second], ids[first]
    path.write_text(json.dumps(vocabulary))
    (plain / "result.json").unlink()
    message = r"tokenizer.json is not what was written .* trained with"
    for use in (
        lambda: load_run(plain),
        lambda: evaluate_run(plain, "val"),
        lambda: train(small_config, plain),
    ):
        with pytest.raises(InputError, match=message):
            use()


def test_before_the_first_checkpoint_the_vocabulary_is_made_anew(plain, small_config, finished):
    """Until then the same directory may be given another model.pretrained, of other words."""
    shutil.rmtree(plain / "checkpoints")
    for name in ("result.json", "metrics.jsonl"):
        (plain / name).unlink()
    (plain / "tokenizer.json").write_text("another's")
    train(small_config, plain)
    runs.assert_same_run(finished, plain)


def test_a_stop_that_is_passed_in_or_whose_time_is_up_ends_the_run(small_config, tmp_path):
    stop = Stop()
    stop.signalled = True  # as a sweep's, whose handler had the signal
    with pytest.raises(Interrupted, match="saved step 1;"):
        train(small_config, tmp_path / "first", stop=stop)
    with Stop(after=0.0) as stop:
        os.kill(os.getpid(), signal.SIGTERM)  # not the second, which would exit before the save
        with pytest.raises(Interrupted, match="saved step 1;"):
            train(small_config, tmp_path / "second", stop=stop)
    assert not Stop(after=100.0).requested and not Stop().requested


def test_the_command_line_sets_the_time(tmp_path):
    done = run(SAMPLE, f"--workdir={tmp_path}", "--config.epochs=5000", "--stop_after=5", code=143)
    assert re.search(r"saved step \d+; run the same command to continue\n$", done.stderr)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])  # the latter: under nohup
def test_sighup_becomes_a_request_unless_nohup_ignores_it(handler):
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with Stop() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested == (handler == signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
