"""The lock of a run directory: who holds it, and what happens on file systems that have none."""

import errno
import fcntl
import os
from unittest.mock import Mock

import pytest

from sentiment_jax.errors import InUse
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.run_directory import lock_run


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path):
    """What a killed process wrote does not hold a lock; the kernel has ended that."""
    (tmp_path / "lock").write_text("pid 1 on elsewhere since then\n")
    for _ in range(2):
        with lock_run(tmp_path):
            (line,) = (tmp_path / "lock").read_text().splitlines()
            assert line.startswith(f"pid {os.getpid()} on ") and " since 20" in line
            with pytest.raises(InUse, match=f"is in use by {line}; wait"), lock_run(tmp_path):
                pass
            with pytest.raises(BlockingIOError), (tmp_path / "lock").open() as other:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as another process does


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(run_directory.fcntl, "flock", Mock(side_effect=error))
    with lock_run(tmp_path):
        pass
    warning = f"warning: {tmp_path} can't be locked (No locks available): let no other process "
    assert capsys.readouterr().err.startswith(warning)
