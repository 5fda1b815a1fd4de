"""Caches that can't be used cost time and at most one line, never a run."""

import os
import pwd
from pathlib import Path
from unittest.mock import Mock

import jax
import pytest
from commands import python

from sentiment_jax.runtime import startup

PROGRAMS = """
import shutil, sys
import jax
from sentiment_jax.runtime import startup

def compile_two():
    jax.clear_caches()  # so that each call is like a process of its own
    for size in (2, 3):
        print(jax.jit(lambda x: x + 1)(jax.numpy.zeros(size)).tolist(), file=sys.stderr)

startup.use_compilation_cache()
compile_two()
"""
DAMAGE = """
folder = startup.find_cache() / "xla"
whole = {path: path.read_bytes() for path in folder.glob("*-cache")}
assert len(whole) >= 2
for index, (path, content) in enumerate(sorted(whole.items())):
    path.write_bytes([b"", b"garbage", content[:-9]][index % 3])
compile_two()
shutil.rmtree(folder)
folder.write_text("no entry can be written")
compile_two()
"""
TWO = "[1.0, 1.0]\n[1.0, 1.0, 1.0]\n"


def run_programs(script, cache):
    """Compile in a process of its own that has this XDG_CACHE_HOME; return its stderr."""
    script = PROGRAMS + script
    return python("-c", script, XDG_CACHE_HOME=cache, JAX_COMPILATION_CACHE_DIR=None).stderr


def test_programs_are_compiled_anew_in_silence_where_the_cache_is_damaged(tmp_path):
    assert run_programs(DAMAGE, tmp_path) == 3 * TWO


def test_nothing_is_cached_below_a_file_with_one_warning(tmp_path):
    (tmp_path / "file").write_text("")
    assert run_programs("", tmp_path / "file") == (
        f"warning: cannot write to {tmp_path}/file (Not a directory): nothing is cached; set "
        f"XDG_CACHE_HOME to a folder of yours\n{TWO}"
    )


START_TWICE = """
import os
import jax
from sentiment_jax.runtime import startup

for _ in range(2):
    startup.start(None)
    print(os.environ.pop("XLA_FLAGS", "unset"), jax.device_count())
"""


def test_jax_is_set_up_before_it_starts_or_not_at_all():
    """Flags that come too late would be recorded as the run's. A user's devices stay."""
    printed = python("-c", START_TWICE, XLA_FLAGS=None, JAX_NUM_CPU_DEVICES=3).stdout
    assert printed == "--xla_cpu_prefer_vector_width=512 3\nunset 3\n"


def test_a_process_that_a_sweep_starts_has_its_flags_once(monkeypatch):
    """Flags that differ would say that its runs are not bit-exact."""
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


@pytest.mark.parametrize(
    ("cuda", "flags", "jaxlib", "lstm", "encoder"),
    [
        (True, "", "0.10.2", "bfloat16", "bfloat16"),
        (False, "avx512f avx512_bf16", "0.12.0", "bfloat16", "bfloat16"),
        (False, "avx512f amx_bf16", "0.10.2", "float32", "bfloat16"),
        (False, "avx512f avx512_vnni", "0.12.0", "float32", "float32"),
        (False, None, "0.12.0", "float32", "float32"),  # a system without /proc
    ],
)
def test_recipes_take_bfloat16_where_it_is_fast(cuda, flags, jaxlib, lstm, encoder, monkeypatch):
    read = Mock(return_value=flags, side_effect=FileNotFoundError if flags is None else None)
    monkeypatch.setattr(startup, "has_cuda", lambda: cuda)
    monkeypatch.setattr(startup.importlib.metadata, "version", lambda name: jaxlib)
    monkeypatch.setattr(startup.Path, "read_text", read)
    assert startup.fastest_dtype("lstm") == lstm
    assert startup.fastest_dtype("bert") == encoder
