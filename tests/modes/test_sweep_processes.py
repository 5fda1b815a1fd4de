"""Several processes work on one sweep; one that is killed loses nothing."""

import itertools
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from runs import ONE_SHAPE, small_flags
from sweeping import AXES, contents, table

from configs import electra
from sentiment_jax.errors import InputError, InUse
from sentiment_jax.modes import sweep
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory, lock_run
from sentiment_jax.sweeps.plan import plan_sweep, read_sweep
from sentiment_jax.training.checks import resolve

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("procedure", "trained"), [("grid", 11 + 3), ("stages", 4 + 3)])
def test_runs_in_use_are_passed_over_and_waited_for(
    small_config, tmp_path, training, monkeypatch, procedure, trained
):
    axes = {**AXES, "procedure": procedure, "start": {"batch_size": 8, "learning_rate": 1e-2}}
    plan = plan_sweep(tmp_path, resolve(small_config), axes)
    (runs, *_) = plan.stages()
    held = runs[1]
    held.directory.mkdir()
    lock = lock_run(held.directory)
    lock.__enter__()
    waits = itertools.count()

    def other_process(seconds):
        if next(waits) == 2:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            write_json(held.directory / "result.json", result)
            lock.__exit__(None, None, None)

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(small_config, tmp_path, axes)
    directories = [directory for directory, _ in training.runs]
    assert held.directory not in directories
    assert len(directories) == trained
    # What the other process found counts.
    best = held.directory.name.partition("-seed")[0]
    assert directories[-1].name.startswith(f"{best}-seed2")


def test_a_dead_processs_run_is_taken_over(small_config, tmp_path, training, monkeypatch):
    plan = plan_sweep(tmp_path, resolve(small_config), AXES)
    (runs, *_) = plan.stages()
    runs[1].directory.mkdir()
    lock = lock_run(runs[1].directory)
    lock.__enter__()
    monkeypatch.setattr(sweep.time, "sleep", lambda _: lock.__exit__(None, None, None))
    sweep.sweep(small_config, tmp_path, AXES)
    assert [directory for directory, _ in training.runs[11:12]] == [runs[1].directory]
    assert len(training.runs) == 15


def test_shares_take_every_nth_and_the_last_tests(small_config, tmp_path, training, now, capsys):
    sweep.sweep(small_config, tmp_path, AXES, only="1/2")
    first = [directory for directory, _ in training.runs]
    assert len(first) == 6
    assert "6 runs are open" in capsys.readouterr().out
    sweep.sweep(small_config, tmp_path, AXES, only="2/2")
    assert len(training.runs) == 15
    assert len({directory for directory, _ in training.runs}) == 15
    assert [score for _, score in training.runs] == [False] * 12 + [True] * 3


def test_shares_of_stages_wait_for_each_other(small_config, tmp_path, training, monkeypatch):
    axes = {**AXES, "procedure": "stages"}

    def other_share(seconds):
        for runs in read_sweep(tmp_path).stages():
            for run in runs[1::2]:
                if run.stage != "final" and run.status == "open":
                    run.directory.mkdir(exist_ok=True)
                    training(run.config, run.directory, score_test=False, prepare=lambda _: None)

    monkeypatch.setattr(sweep.time, "sleep", other_share)
    sweep.sweep(small_config, tmp_path, axes, only="1/2")
    assert len(training.runs) == len({directory for directory, _ in training.runs}) == 5 + 3
    assert training.runs[-1][0].name.startswith("lstm-adam-16-0.001-seed2")


@pytest.mark.parametrize("share", ["0/2", "3/2", "x", "1", "1/0", "-1/2"])
def test_bad_shares(small_config, tmp_path, share):
    with pytest.raises(InputError, match="--only"):
        sweep.sweep(small_config, tmp_path, AXES, only=share)


def test_a_held_run_directory_says_so(tmp_path):
    with lock_run(tmp_path), pytest.raises(InUse), lock_run(tmp_path):
        pass


def start(directory, *arguments, **options):
    small = (
        *("--config=configs/lstm.py:sample", "--mode=sweep"),
        *small_flags(epochs=2, checkpoint_every=2, **ONE_SHAPE),
        *("--sweep_optimizer=adam,sgd", "--sweep_batch_size=16", "--sweep_learning_rate=1e-2"),
        "--sweep_seeds=0,1",
    )
    return subprocess.Popen(
        [*(sys.executable, "-m", "sentiment_jax.main", f"--workdir={directory}"), *small]
        + list(arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, code=0):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


def test_the_command_line_reaches_the_sweep(tmp_path):
    message = finish(start(tmp_path, "--sweep_learning_rate=1e-2,fast"), code=2)
    assert message == "error: --sweep_learning_rate=1e-2,fast: one or more float values expected\n"
    message = finish(start(tmp_path, "--config.batch_size=3"), code=2)
    assert message.startswith("error: --config.batch_size is an axis of the sweep")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    output = finish(start(directory))
    assert "4/4" in output
    return directory


def wait_for(process, found):
    """Until a sweep that runs has made as many files as the test needs."""
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def wait_for_workers_to_end(directory):
    deadline = time.monotonic() + 30
    while str(directory) in subprocess.check_output(["ps", "-eo", "args"], text=True):
        assert time.monotonic() < deadline, "a worker outlived the sweep"
        time.sleep(0.2)


@pytest.mark.slow
def test_sigkill_in_the_middle_ends_the_worker_too(uninterrupted, tmp_path):
    with start(tmp_path, "--workers=2") as process:
        wait_for(process, lambda: list(tmp_path.glob("*/result.json")))
        process.kill()
    wait_for_workers_to_end(tmp_path)
    before = contents(tmp_path)
    finished = {path.parts[0] for path in before if path.name == "result.json"}
    assert len(finished) < 4, "killed too late to show anything"
    finish(start(tmp_path))
    after = contents(tmp_path)
    # Of a run that had just ended, the last lines of its log are written again.
    kept = [path for path in before if path.parts[0] in finished and path.name != "log.txt"]
    assert len(kept) > 9 * len(finished)
    assert [path for path in kept if before[path] != after[path]] == []
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_two_workers_give_the_same_table(uninterrupted, tmp_path):
    output = finish(start(tmp_path, "--workers=2"))
    assert table(tmp_path) == table(uninterrupted)
    log = (tmp_path / "worker-2.log").read_text()
    assert "4 runs of at most 2 epochs" in log
    # Each run was trained once, by one of the two.
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 4
    assert [text.count("epoch   1/2") for text in logs] == [1] * 4
    assert "4/4" in output + log


@pytest.mark.slow
def test_sigterm_saves_and_ends_the_workers_too(uninterrupted, tmp_path):
    process = start(tmp_path, "--workers=2", start_new_session=True)
    wait_for(process, lambda: list(tmp_path.glob("*/result.json")))
    process.send_signal(signal.SIGTERM)
    assert "run the same command to continue" in finish(process, code=143)
    running = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=True
    ).stdout
    assert str(tmp_path) not in running, "a worker outlived the sweep"
    finish(start(tmp_path))
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_two_processes_one_killed_and_runs_that_fail(tmp_path):
    """Row 33 at once: what the killed one had finished stays, the other completes the sweep."""
    # Those that fail end at once: with three that do not, each process has some to be caught in.
    failing = "--sweep_learning_rate=1e-2,5e-3,2e-3,1e30"
    finish(start(tmp_path / "alone", failing))
    together = tmp_path / "together"
    killed, survivor = (start(together, failing) for _ in range(2))
    deadline = time.monotonic() + 120
    while True:
        killed.send_signal(signal.SIGSTOP)
        if (held := _held_by(together, killed.pid)) and list(together.glob("*/result.json")):
            break
        killed.send_signal(signal.SIGCONT)
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    survivor.send_signal(signal.SIGSTOP)  # or it could delete a checkpoint that is being read
    before = contents(together)
    survivor.send_signal(signal.SIGCONT)
    done = {path.parent for path in before if path.name in ("result.json", "failed.json")}
    assert done and not done & {path.relative_to(together) for path in held}
    output = finish(survivor)
    assert "10/10" in output
    after = contents(together)
    # The survivor may have been about to write the last lines of a log.
    kept = [path for path in before if path.parent in done and path.name != "log.txt"]
    assert len(kept) > 3 * len(done)
    assert all(before[path] == after[path] for path in kept)
    assert table(together) == table(tmp_path / "alone")
    assert table(together).count("failed at step 1,") == 2
    assert output.count("\nfailed   lstm-") == 2
    assert len(list((together / "final").glob("*/result.json"))) == 2


def _held_by(directory, pid):
    """The run directories that a process is training in."""
    return [
        path.parent
        for path in [*directory.glob("*/lock"), *directory.glob("final/*/lock")]
        if path.read_text().startswith(f"pid {pid} ")
        and RunDirectory(path.parent).outcome()[0] == "open"
    ]


@pytest.mark.slow
def test_electra_in_stages(tmp_path):
    config = electra.get_config("tiny")
    config.epochs = 1
    config.data.limit, config.data.test_limit, config.data.max_length = 60, 30, 24
    config.data.length_buckets = ()
    config.model.hidden_size = config.model.embedding_size = 16
    config.model.intermediate_size, config.model.num_hidden_layers = 16, 1
    axes = {**electra.get_sweep("tiny"), "optimizer": ("adam",), "seeds": (0, 1)}
    axes |= {"batch_size": (16,), "learning_rate": (1e-3, 3e-4)}
    sweep.sweep(config, tmp_path, axes)
    results = [read_json(path) for path in (tmp_path / "final").glob("*/result.json")]
    assert len(results) == 2
    assert all(np.isfinite(result["test"]["loss"]) for result in results)
