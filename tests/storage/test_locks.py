"""The lock of a run directory: who holds it, and what happens on file systems that have none."""

import errno
import os
import signal
import subprocess
import sys
import time

import commands
import pytest
import runs
from sweeping import contents

from sentiment_jax.errors import InUse
from sentiment_jax.modes.train import train
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.run_directory import RunDirectory, lock_run

# 152 steps: the first process is caught at one of them.
LONG = {**runs.LONGER, "batch_size": 2, "data.limit": 190, "checkpoint_every": 30}


HOLD = """
import sys, time
from pathlib import Path
from sentiment_jax.storage.run_directory import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "held\n"
        named = f"in use by pid {owner.pid} on .* since "
        with pytest.raises(InUse, match=named), lock_run(tmp_path):
            pass
        owner.kill()
    with lock_run(tmp_path):
        assert (tmp_path / "lock").read_text().startswith("pid ")


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    for code in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def refuse(*_, code=code):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(run_directory.fcntl, "flock", refuse)
        with lock_run(tmp_path):
            RunDirectory(tmp_path).check_lock_owner()
        assert capsys.readouterr().err == (
            f"warning: {tmp_path} is on a file system without locks ({os.strerror(code)}); of two "
            "processes in it, the first will end\n"
        )


def test_whoever_came_first_notices_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory.fcntl, "flock", lambda *_: None)
    directory = RunDirectory(tmp_path)
    directory.check_lock_owner()  # nobody has locked it
    with lock_run(tmp_path):
        directory.check_lock_owner()
        monkeypatch.setattr(run_directory.os, "getpid", lambda: 7)
        with lock_run(tmp_path):
            directory.check_lock_owner()
        monkeypatch.undo()
        with pytest.raises(InUse, match="is now in use by pid 7 on .* does not honor locks"):
            directory.check_lock_owner()


@pytest.mark.slow
def test_of_two_processes_in_one_run_the_first_ends_and_changes_nothing(small_config, tmp_path):
    """Where flock lies: the first hangs in a step, the second resumes and ends, the first wakes."""
    command = (commands.SAMPLE, *runs.small_flags(**LONG))
    (tmp_path / "lies").mkdir()
    (tmp_path / "lies" / "sitecustomize.py").write_text(
        "import fcntl\nfcntl.flock = lambda *_: None\n"
    )
    environment = {**commands.ENVIRONMENT, "PYTHONPATH": str(tmp_path / "lies")}
    small_config.update_from_flattened_dict(LONG)
    train(small_config, tmp_path / "alone")
    log = tmp_path / "run" / "metrics.jsonl"
    pipe = commands.subprocess.PIPE
    workdir = f"--workdir={tmp_path}/run"
    with commands.start(workdir, *command, env=environment, stderr=pipe) as first:
        deadline = time.monotonic() + 100
        while not log.exists() or log.read_text().count("\n") < 40:
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)
        with commands.start(workdir, *command, env=environment) as second:
            assert second.wait(200) == 0
        runs.assert_same_run(tmp_path / "alone", tmp_path / "run")
        before = contents(tmp_path / "run")
        first.send_signal(signal.SIGCONT)
        _, errors = first.communicate(timeout=100)
    (line,) = [line for line in errors.splitlines() if "error" in line]
    assert f"run is now in use by pid {second.pid} on " in line
    assert first.returncode == 2
    assert contents(tmp_path / "run") == before
