"""A run directory: its lock, what may stand in it, and where it may be."""

import errno
import fcntl
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from reviews import refuses

from sentiment_jax.errors import InUse
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.run_directory import lock_run
from sentiment_jax.training.trained_model import load_run


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


FILES = ["lock", "config.json", "env.json", "metrics.jsonl", "curves.png", "predictions.csv"]
MAKERS = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("target")]
ODD = [(name, make) for name in FILES for make in MAKERS]


@pytest.mark.parametrize(("name", "make"), [*ODD, ("checkpoints", Path.touch)])
def test_what_is_no_file_is_refused_at_once_and_never_written_through(tmp_path, name, make):
    """Or it would be found after the training, and the target of a link overwritten."""
    (tmp_path / "target").write_text("mine")
    make(tmp_path / name)
    for use in run_directory.prepare_workdir, load_run:
        refuses(f"{name} is not what a run writes there: move it", use, tmp_path)
    assert (tmp_path / "target").read_text() == "mine"


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        refuses(f"cannot write to --workdir={workdir}", run_directory.prepare_workdir, workdir)
    for name in ("[a]", "a*", "a?", "a\\b", "a\udcff"):
        refuses("can't stand in a path; rename it", run_directory.prepare_workdir, tmp_path / name)
    run_directory.prepare_workdir(tmp_path / "a, $x^$ {b}")
