"""Several processes work on one sweep; one that is killed loses nothing."""

import itertools
import signal
import subprocess
import time

import pytest
from commands import SAMPLE, start
from runs import ONE_SHAPE, small_flags
from sweeping import AXES, contents, table

from sentiment_jax.modes import sweep
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import RunDirectory, lock_run
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve

STAGES = {**AXES, "procedure": "stages", "start": {"batch_size": 8, "learning_rate": 1e-2}}


@pytest.mark.parametrize(("axes", "trained"), [(AXES, 11 + 3), (STAGES, 4 + 3)])
def test_a_trial_in_use_is_left_alone_and_awaited(
    small_config, tmp_path, training, monkeypatch, axes, trained
):
    (trials, *_) = plan_sweep(tmp_path, resolve(small_config), axes).stages()
    held = trials[1].directory
    held.mkdir()
    lock = lock_run(held)
    lock.__enter__()
    waits = itertools.count()

    def other_process(seconds):
        if next(waits) == 2:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            write_json(held / "result.json", result)
            lock.__exit__(None, None, None)

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(small_config, tmp_path, axes)
    assert held not in training.directories
    assert len(training.runs) == trained
    # The other process's trial is the winner.
    best = held.name.partition("-seed")[0]
    assert training.directories[-1].name.startswith(f"{best}-seed2")


def test_a_dead_processs_trial_is_taken_over(small_config, tmp_path, training, monkeypatch):
    (trials, *_) = plan_sweep(tmp_path, resolve(small_config), AXES).stages()
    held = trials[1].directory
    held.mkdir()
    lock = lock_run(held)
    lock.__enter__()
    monkeypatch.setattr(sweep.time, "sleep", lambda _: lock.__exit__(None, None, None))
    sweep.sweep(small_config, tmp_path, AXES)
    assert training.directories[11] == held
    assert len(training.runs) == 15


# In processes of their own


def begin(directory, *arguments, **options):
    small = (
        *(SAMPLE, "--mode=sweep", f"--workdir={directory}"),
        *small_flags(epochs=2, checkpoint_every=2, **ONE_SHAPE),
        *("--sweep_optimizer=adam,sgd", "--sweep_batch_size=16", "--sweep_learning_rate=1e-2"),
        "--sweep_seeds=0,1",
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return start(*small, *arguments, **pipes, **options)


def finish(process, code=0):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted")
    output = finish(begin(directory))
    assert "4/4" in output
    return directory


def wait_for(process, found):
    """Until a sweep that runs has made as many files as the test needs."""
    deadline = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)


def workers(directory):
    """The processes of a sweep that are running."""
    processes = subprocess.check_output(["ps", "-eo", "args"], text=True).splitlines()
    return [process for process in processes if str(directory) in process]


@pytest.mark.slow
def test_sigkill_in_the_middle_ends_the_worker_too(uninterrupted, tmp_path):
    """Row 38."""
    with begin(tmp_path, "--workers=2") as process:
        wait_for(process, lambda: list(tmp_path.glob("*/result.json")))
        process.kill()
    deadline = time.monotonic() + 30
    while workers(tmp_path):
        assert time.monotonic() < deadline, "a worker outlived the sweep"
        time.sleep(0.2)
    before = contents(tmp_path)
    finished = {path.parts[0] for path in before if path.name == "result.json"}
    assert len(finished) < 4, "killed too late to show anything"
    finish(begin(tmp_path))
    after = contents(tmp_path)
    # Of a run that had just ended, the last lines of its log are written again.
    kept = [path for path in before if path.parts[0] in finished and path.name != "log.txt"]
    assert len(kept) > 9 * len(finished)
    assert [path for path in kept if before[path] != after[path]] == []
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_two_workers_give_the_same_table(uninterrupted, tmp_path):
    output = finish(begin(tmp_path, "--workers=2"))
    assert table(tmp_path) == table(uninterrupted)
    log = (tmp_path / "worker-2.log").read_text()
    assert "4 trials, " in log
    # Each trial was trained once, by one of the two.
    logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
    assert len(logs) == 4
    assert [text.count("epoch   1/2") for text in logs] == [1] * 4
    assert "4/4" in output + log


@pytest.mark.slow
def test_sigterm_saves_and_ends_the_workers_too(uninterrupted, tmp_path):
    """Row 38."""
    process = begin(tmp_path, "--workers=2", start_new_session=True)
    wait_for(process, lambda: list(tmp_path.glob("*/result.json")))
    process.send_signal(signal.SIGTERM)
    assert "run the same command to continue" in finish(process, code=143)
    assert not workers(tmp_path), "a worker outlived the sweep"
    finish(begin(tmp_path))
    assert table(tmp_path) == table(uninterrupted)


@pytest.mark.slow
def test_two_processes_one_killed_and_trials_that_fail(tmp_path):
    """Row 33: what the killed one had finished stays, and the other completes the sweep."""
    # Failing trials end at once; three others leave each process time to be killed in one.
    failing = "--sweep_learning_rate=1e-2,5e-3,2e-3,1e30"
    finish(begin(tmp_path / "alone", failing))
    together = tmp_path / "together"
    killed, survivor = (begin(together, failing) for _ in range(2))
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
    """The trials that a process is training."""
    return [
        path.parent
        for path in [*directory.glob("*/lock"), *directory.glob("final/*/lock")]
        if path.read_text().startswith(f"pid {pid} ")
        and RunDirectory(path.parent).outcome()[0] == "open"
    ]
