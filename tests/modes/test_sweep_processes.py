"""Several processes work on one sweep; one that is killed loses nothing."""

import contextlib
import itertools
import signal
import subprocess

import pytest
from commands import SAMPLE, start
from runs import ONE_SHAPE, small_flags, wait_until
from sweeping import AXES, STAGES, table

from benchmarks.comparing import contents
from sentiment_jax.modes import sweep
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import lock_run
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve


@pytest.fixture(params=[AXES, STAGES], ids=["grid", "stages"])
def axes(request):
    return request.param


@pytest.fixture
def held(small_config, tmp_path, axes):
    """The directory of the second trial, locked as if by another process."""
    (trials, *_) = plan_sweep(tmp_path, resolve(small_config), axes).stages()
    trials[1].directory.mkdir()
    with contextlib.ExitStack() as lock:
        lock.enter_context(lock_run(trials[1].directory))
        yield trials[1].directory, lock


def test_a_trial_in_use_is_left_alone_and_awaited(
    small_config, tmp_path, training, monkeypatch, axes, held
):
    directory, lock = held
    waits = itertools.count()

    def other_process(seconds):
        if next(waits) == 2:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            write_json(directory / "result.json", result)
            lock.close()

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(small_config, tmp_path, axes)
    assert directory not in training.directories
    assert len(training.runs) == (14 if axes == AXES else 7)
    # The other process's trial is the winner.
    best = directory.name.partition("-seed")[0]
    assert training.directories[-1].name.startswith(f"{best}-seed2")


def test_a_dead_processs_trial_is_taken_over(
    small_config, tmp_path, training, monkeypatch, axes, held
):
    directory, lock = held
    monkeypatch.setattr(sweep.time, "sleep", lambda _: lock.close())
    sweep.sweep(small_config, tmp_path, axes)
    assert training.directories[11 if axes == AXES else 2] == directory
    assert len(training.runs) == (15 if axes == AXES else 8)


# In processes of their own


def begin(directory, *arguments, **options):
    small = (
        *(SAMPLE, "--mode=sweep", f"--workdir={directory}"),
        *small_flags(epochs=8, checkpoint_every=2, **ONE_SHAPE),
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


def workers(directory):
    """The processes of a sweep that are running."""
    processes = subprocess.check_output(["ps", "-eo", "args"], text=True).splitlines()
    return [process for process in processes if str(directory) in process]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_worker_too_and_nothing_is_lost(uninterrupted, tmp_path, number):
    """Rows 33 and 38."""
    process = begin(tmp_path, "--workers=2", start_new_session=True)
    wait_until(lambda: list(tmp_path.glob("*/result.json")), process)
    process.send_signal(number)
    output = finish(process, code=143 if number == signal.SIGTERM else -number)
    assert number == signal.SIGKILL or "run the same command to continue" in output
    wait_until(lambda: not workers(tmp_path), seconds=30 if number == signal.SIGKILL else 0)
    before = contents(tmp_path)
    finished = {path.parent for path in before if path.name == "result.json"}
    assert len(finished) < 4, "killed too late to show anything"
    finish(begin(tmp_path))
    after = contents(tmp_path)
    # Of a run that had just ended, the last lines of its log are written again.
    kept = [path for path in before if finished & {*path.parents} and path.name != "log.txt"]
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
    assert [text.count("epoch   1/8") for text in logs] == [1] * 4
    assert "4/4" in output + log


@pytest.mark.slow
def test_of_two_commands_begun_at_once_one_may_die(uninterrupted, tmp_path):
    """Row 33."""
    killed, survivor = (begin(tmp_path) for _ in range(2))
    wait_until(lambda: list(tmp_path.glob("*/result.json")), killed, survivor)
    killed.kill()
    killed.communicate()
    assert "4/4" in finish(survivor)
    assert table(tmp_path) == table(uninterrupted)
