"""One, two and four devices: the same run to float32 rounding, the same checkpoints bit for bit."""

import json
import os

import jax
import numpy as np
import pytest
import runs
from commands import ROOT, python

from sentiment_jax.errors import InputError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import devices, startup
from sentiment_jax.training.trained_model import load_run


@pytest.fixture(scope="module")  # takes 14 s
def folder(tmp_path_factory):
    """Runs of the same config: `one` device here, `four` in another process."""
    folder = tmp_path_factory.mktemp("devices")
    train(runs.make_small(**runs.LONGER), folder / "one")
    python("tests/on_devices.py", folder, folder / "one", PYTHONPATH=ROOT)
    return folder


def stored(file):
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.slow
def test_the_same_run_on_several_devices(folder):
    runs.assert_rounding_apart(folder / "one", folder / "four", runs.STEPS)


@pytest.mark.slow
@pytest.mark.parametrize(("run", "there"), [("four", "four/params.npz"), ("one", "read.npz")])
def test_a_checkpoint_is_the_same_on_one_device_and_on_four(folder, run, there):
    here = jax.tree.leaves(load_run(folder / run).params)
    assert all(len(leaf.devices()) == 1 for leaf in here)
    for leaf, other in zip(here, stored(folder / there), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.slow
def test_parameters_are_initialized_on_the_cpu_whatever_device_is_the_default(folder):
    assert json.loads((folder / "initial.json").read_text()) == [0]


@pytest.mark.slow
def test_dropout_does_not_depend_on_the_devices(folder):
    one, two, four = stored(folder / "masks.npz")
    assert 0.6 < one.mean() < 0.8
    assert (one[:2] != one[2:4]).any()
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, four)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "atol"), [("parts.npz", 1e-6), ("probabilities.npz", 0)])
def test_batches_that_are_divided_in_another_way_give_the_same(folder, file, atol):
    """A batch in parts on several devices; predictions in batches of six, on four devices."""
    one, *others = stored(folder / file)
    for other in others:
        np.testing.assert_allclose(other, one, rtol=0, atol=atol)


PLUGIN = """
def initialize():
    try:
        raise OSError("libcuda.so.1 is missing")
    except OSError as error:
        raise RuntimeError("Unable to load CUDA.\\nIs it installed?") from error
"""
FIND_DEVICES = """
import sys
from sentiment_jax import main
from sentiment_jax.runtime import devices
main.parse = lambda arguments: None
main.dispatch = lambda: print(devices.find_devices())
sys.exit(main.main([]))
"""
NO_GPU = "warning: CUDA is installed, but no GPU was found (Unable to load CUDA. Is it installed?)"


@pytest.mark.parametrize(
    ("platforms", "code", "message"),
    [
        ("", 0, f"{NO_GPU}: running on the CPU\n"),
        ("cpu", 0, ""),
        ("cuda", 2, "error: JAX_PLATFORMS=cuda finds no device: Unable to load CUDA"),
        ("abacus", 2, "error: JAX_PLATFORMS=abacus finds no device: Unable to init"),
    ],
)
def test_cuda_without_a_gpu_is_one_line(tmp_path, platforms, code, message):
    """JAX itself logs a traceback and takes the CPU, or raises an assertion without a word."""
    plugin = tmp_path / "jax_plugins" / "xla_cuda_of_this_test"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    done = python("-c", FIND_DEVICES, code=code, PYTHONPATH=tmp_path, JAX_PLATFORMS=platforms)
    assert done.stderr == message if code == 0 else done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)
    assert bool(done.stdout) == (code == 0)


WIDE = "--xla_cpu_prefer_vector_width=512"
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("flags", "added", "on_cuda"),
    [
        ("", [WIDE], [DETERMINISTIC]),
        ("--xla_dump_to=x", [WIDE], [DETERMINISTIC]),
        ("--xla_cpu_prefer_vector_width=128", [], [DETERMINISTIC]),
        ("file_of_flags", [], []),
        ("--xla_gpu_deterministic_ops=false", [WIDE], []),
        ("--xla_gpu_deterministic_ops", [WIDE], []),
    ],
)
def test_flags_of_xla_are_added_unless_they_are_set(monkeypatch, tmp_path, flags, added, on_cuda):
    """A GPU's flag is set only if CUDA is installed: it would make runs on a CPU differ."""
    monkeypatch.setattr(jax.config, "update", lambda *setting: None)  # not refused: not started
    monkeypatch.setenv("XLA_FLAGS", flags)
    startup.start(None)
    assert os.environ["XLA_FLAGS"].split() == [*flags.split(), *added]
    (tmp_path / "jax_plugins" / "xla_cuda12").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda12" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):
        startup.start(None)
        assert os.environ["XLA_FLAGS"].split() == [*flags.split(), *added, *on_cuda]


def test_a_batch_that_devices_cannot_share(monkeypatch):
    monkeypatch.setattr(devices, "find_devices", lambda: [None] * 4)
    devices.check_batch_size("batch_size", 8)
    devices.check_batch_size("batch_size", 8, parts=2)
    with pytest.raises(InputError, match="12 .*4 devices in gradient_accumulation=2 .*use 8 or 16"):
        devices.check_batch_size("batch_size", 12, parts=2)
    for size, nearest in ((6, "use 4 or 8"), (3, "use 4"), (1, "use 4"), (9, "use 8 or 12")):
        message = f"batch_size={size} does not divide .* 4 .*{nearest}$"
        with pytest.raises(InputError, match=message):
            devices.check_batch_size("batch_size", size)
