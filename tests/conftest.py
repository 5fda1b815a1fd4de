"""Caches stay inside a temporary folder, but what is compiled is kept for the next session.

With CHECK_TYPES=1, the shapes and types of all arguments and results are checked.
"""

import functools
import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Compiling takes most of the tests' time: what runs for moments is left as LLVM finds it.
QUICK = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
QUICK += " --xla_cpu_parallel_codegen_split_count=1"
if version("jax").startswith("0.10."):  # a training step compiles in .3 s instead of 1.5
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip()

import jax
from jaxtyping import install_import_hook

if "CHECK_TYPES" in os.environ:  # as .ci/run does in all its tests; a fifth of their time
    install_import_hook("sentiment_jax", "beartype.beartype")

from sentiment_jax.runtime import startup

if "PYTEST_XDIST_WORKER" not in os.environ:  # workers and the processes they start share both
    cache = tempfile.mkdtemp(prefix="sentiment_jax_tests_")
    compiled = (startup.find_cache() or Path(cache)) / "xla_of_tests"
    compiled.mkdir(exist_ok=True)
    if sum(entry.stat().st_size for entry in os.scandir(compiled)) > 2**30:
        shutil.rmtree(compiled)  # it only grows
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compiled)
    os.environ["XDG_CACHE_HOME"] = cache
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])

import golden
import pytest
import runs
import sweeping
from commands import ROOT, command_line

from sentiment_jax import main
from sentiment_jax.data.dataset import READERS
from sentiment_jax.modes import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.training.steps import _make_train_step
from sentiment_jax.training.trained_model import load_run

gc.freeze()  # what is imported stays: whoever collects garbage need not look at it again
gc.set_threshold(50_000)  # tracing makes objects by the thousand, few of them garbage
startup.use_wide_vectors()  # as main does: bitwise the same runs in a process of their own


def pytest_collection_modifyitems(items):
    """The files with the slow tests first: of two workers, neither ends long after the other."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_sessionfinish():
    gc.collect()
    gc.freeze()  # or pytest collects it ten times


@pytest.fixture
def folder(tmp_path):
    """A copy of a Hugging Face fixture to change: `folder("bert")`."""
    return functools.partial(golden.copy, tmp_path=tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of an uninterrupted run of runs.make_small(); not to be changed."""
    workdir = tmp_path_factory.mktemp("finished")
    train(runs.make_small(), workdir)
    return workdir


@pytest.fixture(scope="session")
def model(finished):
    """The trained model of the uninterrupted run."""
    return load_run(finished)


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """A finished sweep whose runs at 1e30 diverged, how often it read data and compiled.

    Its directory is not to be changed.
    """
    axes = {"procedure": "grid", "optimizer": ("sgd", "adam"), "batch_size": (16,)}
    axes |= {"learning_rate": (3e-3, 1e30), "seeds": (0, 1)}
    directory = tmp_path_factory.mktemp("sweeps") / "small"
    read = Mock(wraps=READERS["sample"])
    before = _make_train_step.cache_info().misses
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(READERS, "sample", read)
        sweep.sweep(runs.make_small(), directory, axes)
    compiled = _make_train_step.cache_info().misses - before
    return SimpleNamespace(directory=directory, reads=read.call_count, compiled=compiled)


@pytest.fixture
def printed(monkeypatch, capsys):
    """Run a command in this process, which must have this exit code, and return what it prints."""
    monkeypatch.chdir(ROOT)

    def call(*arguments, code=0):
        with command_line(arguments):
            assert main.main() == code
        shown, errors = capsys.readouterr()
        return errors if code else shown

    return call


@pytest.fixture
def refused(printed):
    """Run a command that must fail, and return its one line."""

    def call(*arguments):
        (line,) = printed(*arguments, code=2).strip().splitlines()
        assert line.startswith("error: "), line
        return line

    return call


@pytest.fixture
def training(monkeypatch):
    """A training that only writes results; counts its runs, fails as set."""
    training = sweeping.Training()
    monkeypatch.setattr(sweep, "complete", training)
    return training


@pytest.fixture
def now(monkeypatch):
    """No other process ends the trials that it holds: waiting is a mistake."""
    monkeypatch.setattr(sweep.time, "sleep", lambda seconds: pytest.fail("the sweep waits"))


@pytest.fixture(scope="session", autouse=True)
def _unpainted():
    """Figures are made; only those that a test asks for by `painted` are drawn."""
    with runs.saving_figures(runs.leave_white):
        yield


@pytest.fixture
def painted():
    with runs.saving_figures(runs.PAINT):
        yield


@pytest.fixture
def sweep_copy(swept, tmp_path):
    """A copy of swept, to be damaged."""
    return shutil.copytree(swept.directory, tmp_path / "copy")


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of finished, to be damaged."""
    return shutil.copytree(finished, tmp_path / "run")
