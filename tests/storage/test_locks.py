"""The lock of a run directory: who holds it, and what happens on file systems that have none."""

import errno
import os
import subprocess
import sys

import pytest
from sweeping import contents

from sentiment_jax.errors import InUse
from sentiment_jax.modes.train import train
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory, lock_run

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


def test_a_run_that_another_process_took_over_writes_no_more(small_config, tmp_path, monkeypatch):
    """As on a file system whose flock always succeeds."""
    monkeypatch.setattr(run_directory.fcntl, "flock", lambda *_: None)
    write = MetricsLog.write
    seen = []

    def write_and_lose(log, **record):
        write(log, **record)
        if record["step"] == 4:
            (tmp_path / "lock").write_text("pid 7 on another-host since today\n")
            seen.append(contents(tmp_path))

    monkeypatch.setattr(MetricsLog, "write", write_and_lose)
    with pytest.raises(InUse, match="is now in use by pid 7 on another-host"):
        train(small_config, tmp_path)
    assert seen == [contents(tmp_path)]
