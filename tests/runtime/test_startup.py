"""Caches that can't be used cost time and one line, never a run (row 45)."""

import os
import pwd
import time
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from commands import python

from sentiment_jax.runtime import startup

COMPILE = """
import jax
from sentiment_jax.runtime import startup
startup.use_compilation_cache()
for size in (2, 3):
    print(jax.jit(lambda x: x + 1)(jax.numpy.zeros(size)).tolist())
"""


def compile_two(cache):
    """Compile in a process of its own, as two runs with this XDG_CACHE_HOME; return its stderr."""
    done = python("-c", COMPILE, XDG_CACHE_HOME=cache, JAX_COMPILATION_CACHE_DIR=None)
    assert done.stdout == "[1.0, 1.0]\n[1.0, 1.0, 1.0]\n"
    return done.stderr


def test_damaged_compiled_programs_are_replaced_with_one_warning(tmp_path):
    assert compile_two(tmp_path) == ""
    folder = tmp_path / "sentiment_jax" / "xla"
    whole = {path: path.read_bytes() for path in folder.glob("*-cache")}
    assert len(whole) >= 2
    for index, (path, content) in enumerate(sorted(whole.items())):
        path.write_bytes([b"", b"garbage", content[:-9]][index % 3])
    assert compile_two(tmp_path) == ""  # what another process may still be writing is no damage
    for path in whole:
        os.utime(path, times=(0, time.time() - 2 * startup.UNFINISHED))
    errors = compile_two(tmp_path)
    assert errors == (
        f"warning: {folder} is damaged, or can't be written: programs are compiled anew\n"
    )
    assert {path: len(path.read_bytes()) > 99 for path in whole} == dict.fromkeys(whole, True)
    assert compile_two(tmp_path) == ""


def test_nothing_is_cached_below_a_file_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    assert compile_two(tmp_path / "file") == (
        f"warning: cannot write to {tmp_path}/file (Not a directory): nothing is cached; set "
        "XDG_CACHE_HOME to a folder of yours\n"
    )


def test_a_process_that_a_sweep_starts_has_its_flags_once(monkeypatch):
    """Row 74: other flags would say that its runs are not bit-exact."""
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    flags = []
    for _ in range(2):
        startup.use_cpu_devices(2)
        startup.use_wide_vectors()
        flags.append(os.environ["XLA_FLAGS"])
    assert flags[0] == flags[1] and "eigen" in flags[0]


def test_a_user_without_home_and_entry(tmp_path, monkeypatch):
    """As in a container that runs under a number: neither HOME nor a line of /etc/passwd."""
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError("getpwuid(): uid not found")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", "")  # for it to be put back
    monkeypatch.delenv("HOME")
    with pytest.raises(RuntimeError, match="home directory"):
        Path.home()
    assert startup.find_cache() == tmp_path / "sentiment_jax"
    assert Path("~/tensorflow_datasets").expanduser() == Path("/tensorflow_datasets")
