"""The lock of a run directory: who holds it, and what happens on file systems that have none."""

import errno
import subprocess
import sys
from unittest.mock import Mock

import pytest

from sentiment_jax.errors import InUse
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.run_directory import lock_run

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
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(run_directory.fcntl, "flock", Mock(side_effect=error))
    with lock_run(tmp_path):
        pass
    warning = f"warning: {tmp_path} can't be locked (No locks available): let no other process "
    assert capsys.readouterr().err.startswith(warning)
