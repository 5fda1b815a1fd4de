"""Several processes work on one sweep; one that is killed loses nothing."""

import contextlib
import itertools
import os
import signal
import subprocess
from unittest.mock import Mock

import pytest
from commands import SAMPLE, start
from runs import ONE_SHAPE, small_flags, unpainted, wait_until
from sweeping import AXES, STAGES, table

from benchmarks.comparing import contents
from configs import lstm
from sentiment_jax.errors import Interrupted
from sentiment_jax.modes import sweep
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import lock_run
from sentiment_jax.sweeps.plan import plan_sweep
from sentiment_jax.training.checks import resolve


@pytest.mark.parametrize("axes", [AXES, STAGES], ids=["grid", "stages"])
@pytest.mark.parametrize("dies", [False, True])
def test_a_trial_in_use_is_awaited_and_taken_over_if_its_process_dies(
    small_config, tmp_path, training, monkeypatch, axes, dies
):
    (trials, *_) = plan_sweep(tmp_path, resolve(small_config), axes).stages()
    directory = trials[1].directory
    directory.mkdir()
    other = contextlib.ExitStack()
    other.enter_context(lock_run(directory))
    waits = itertools.count(1)

    def other_process(seconds):
        if next(waits) == 3:
            scores = {"loss": 0.1, "accuracy": 0.99, "examples": 12}
            result = {"val": scores, "best_epoch": 1, "train_seconds": 1.0}
            if not dies:
                write_json(directory / "result.json", result)
            other.close()

    monkeypatch.setattr(sweep.time, "sleep", other_process)
    sweep.sweep(small_config, tmp_path, axes)
    assert next(waits) == 4, "did not wait between two looks"
    assert len(training.runs) == (14 if axes == AXES else 7) + dies
    if dies:
        assert training.directories[11 if axes == AXES else 2] == directory
    else:  # the other process's trial is the winner
        assert directory not in training.directories
        best = directory.name.partition("-seed")[0]
        assert training.directories[-1].name.startswith(f"{best}-seed2")


def test_workers_divide_the_cores_and_end_with_a_command_that_stops(
    small_config, tmp_path, training, monkeypatch, capsys
):
    worker = Mock(wait=lambda: 3)
    popen = Mock(return_value=worker)
    pin = Mock()
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {4, 5, 6})
    monkeypatch.setattr(os, "sched_setaffinity", pin)
    monkeypatch.setattr(subprocess, "Popen", popen)
    training.errors = {1: Interrupted("saved")}
    with pytest.raises(Interrupted, match="saved"):
        sweep.sweep(small_config, tmp_path, AXES, workers=2)
    worker.terminate.assert_called_once_with()
    assert f"a worker ended with exit code 3: {tmp_path}/worker-2.log" in capsys.readouterr().err
    assert popen.call_args.args[0][1:3] == ["-m", "sentiment_jax.main"]
    assert popen.call_args.args[0][-1] == "--workers=1"
    assert popen.call_args.kwargs["env"]["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.45"
    assert popen.call_args.kwargs["start_new_session"], "Ctrl-C would reach the worker twice"
    assert [call.args[1] for call in pin.call_args_list] == [[4, 6], [5], [4, 6]]


# In processes of their own

CHANGES = {"epochs": 8, "checkpoint_every": 100, **ONE_SHAPE}  # a signal comes in time
OWN_AXES = {"optimizer": ("adam",), "batch_size": (16,), "learning_rate": (1e-2, 3e-3)}
OWN_AXES |= {"seeds": (0, 1)}


def begin(directory, *arguments, **options):
    axes = [f"--sweep_{name}={','.join(map(str, values))}" for name, values in OWN_AXES.items()]
    command = [SAMPLE, "--mode=sweep", f"--workdir={directory}", *small_flags(**CHANGES), *axes]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return start(*command, *arguments, **pipes, **options)


def finish(process, code=0):
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    return output + errors


@pytest.fixture(scope="module")
def finish_here(make_small):
    """The same command in this process, where everything is compiled."""
    axes = lstm.get_sweep("sample") | OWN_AXES
    return lambda directory: sweep.sweep(make_small(**CHANGES), directory, axes)


@pytest.fixture(scope="module")
def uninterrupted(finish_here, tmp_path_factory):
    """The table of the sweep."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with unpainted():
        finish_here(directory)
    return table(directory)


def workers(directory):
    """The processes of a sweep that are running."""
    processes = subprocess.check_output(["ps", "-ewwo", "args"], text=True).splitlines()
    return [process for process in processes if str(directory) in process]


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_worker_too_and_nothing_is_lost(
    uninterrupted, finish_here, tmp_path, number
):
    """Rows 33 and 38."""
    process = begin(tmp_path, "--workers=2", start_new_session=True)
    wait_until(lambda: list(tmp_path.glob("*/result.json")), process)
    assert len(workers(tmp_path)) == 2
    process.send_signal(number)
    output = finish(process, code=143 if number == signal.SIGTERM else -number)
    assert number == signal.SIGKILL or "run the same command to continue" in output
    wait_until(lambda: not workers(tmp_path), seconds=30 if number == signal.SIGKILL else 0)
    before = contents(tmp_path)
    finished = {path.parent for path in before if path.name == "result.json"}
    assert len(finished) < 4, "killed too late to show anything"
    if number == signal.SIGKILL:
        finish_here(tmp_path)
    else:
        output += finish(begin(tmp_path, "--workers=2"))
        log = (tmp_path / "worker-2.log").read_text()
        assert "4 trials, " in log and "4/4" in output + log
        logs = [path.read_text() for path in tmp_path.rglob("log.txt")]
        assert [text.count("epoch   1/8") for text in logs] == [1] * 4, "trained twice"
    after = contents(tmp_path)
    # Of a run that had just ended, the last lines of its log are written again.
    kept = [path for path in before if finished & {*path.parents} and path.name != "log.txt"]
    assert len(kept) > 9 * len(finished)
    assert [path for path in kept if before[path] != after[path]] == []
    assert table(tmp_path) == uninterrupted


@pytest.mark.slow
def test_of_two_commands_begun_at_once_one_may_die(uninterrupted, tmp_path):
    """Row 33."""
    killed, survivor = (begin(tmp_path) for _ in range(2))
    wait_until(lambda: list(tmp_path.glob("*/result.json")), killed, survivor)
    killed.kill()
    killed.communicate()
    assert "4/4" in finish(survivor)
    assert table(tmp_path) == uninterrupted
