"""One, two and four devices: the same run to float32 rounding, the same checkpoints bit for bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from conftest import make_small_config
from runs import assert_rounding_apart

from sentiment_jax.errors import InputError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import devices, startup
from sentiment_jax.training.trained_model import load_run

ROOT = Path(__file__).parents[2]
MANY = ("four", "split")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Runs of the same config: `one` device here, the others in a process with four."""
    folder = tmp_path_factory.mktemp("devices")
    config = make_small_config()
    config.update_from_flattened_dict(runs.LONGER)
    train(config, folder / "one")
    script = [sys.executable, "tests/on_devices.py", folder, folder / "one"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        script,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return folder


def stored(file):
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


@pytest.mark.parametrize("name", MANY)
def test_the_same_run_on_several_devices(folder, name):
    assert_rounding_apart(folder / "one", folder / name, runs.STEPS)


@pytest.mark.parametrize("name", MANY)
def test_their_checkpoints_are_read_on_one(folder, name):
    here = jax.tree.leaves(load_run(folder / name).params)
    assert all(len(leaf.devices()) == 1 for leaf in here)
    there = stored(folder / name / "params.npz")
    jax.tree.map(np.testing.assert_array_equal, [np.asarray(leaf) for leaf in here], there)


def test_a_checkpoint_of_one_is_read_on_four(folder):
    here = jax.tree.leaves(load_run(folder / "one").params)
    there = stored(folder / "read.npz")
    jax.tree.map(np.testing.assert_array_equal, [np.asarray(leaf) for leaf in here], there)


def test_parameters_are_initialized_on_the_cpu_whatever_device_is_the_default(folder):
    assert json.loads((folder / "initial.json").read_text()) == [0]


def test_dropout_does_not_depend_on_the_devices(folder):
    one, two, four = stored(folder / "masks.npz")
    assert 0.6 < one.mean() < 0.8
    assert (one[:2] != one[2:4]).any()
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, four)


def test_a_batch_in_parts_on_several_devices(folder):
    one, *others = stored(folder / "parts.npz")
    for other in others:
        np.testing.assert_allclose(other, one, atol=1e-6)


def test_four_devices_judge_in_batches_of_six(folder):
    """A run of one device may have a batch that several do not divide."""
    divided, not_divided = stored(folder / "verdicts.npz")
    np.testing.assert_array_equal(not_divided, divided)


def test_split_parameters_stay_split(folder):
    assert all(json.loads((folder / "four" / "whole.json").read_text()))
    split = json.loads((folder / "split" / "whole.json").read_text())
    assert split.count(False) >= 15  # sizes 5 and 6 do not divide by four


def test_a_split_run_goes_on_whole_on_one_device(folder, tmp_path):
    for name in ("one", "split"):
        shutil.copytree(folder / name, tmp_path / name)
        config = make_small_config()
        config.update_from_flattened_dict({**runs.LONGER, "epochs": 3})
        train(config, tmp_path / name, allow_changes=True)
    assert_rounding_apart(tmp_path / "one", tmp_path / "split", runs.STEPS * 3 // 2)


PLUGIN = """
def initialize():
    try:
        raise OSError("libcuda.so.1 is missing")
    except OSError as error:
        raise RuntimeError("Unable to load CUDA.\\nIs it installed?") from error
"""


@pytest.mark.parametrize(
    ("platforms", "code", "message"),
    [
        (
            "",
            0,
            "warning: CUDA is installed, but no GPU was found (Unable to load CUDA. Is it "
            "installed?): running on the CPU\n",
        ),
        ("cpu", 0, ""),
        ("cuda", 2, "error: JAX_PLATFORMS=cuda finds no device: Unable to load CUDA"),
        ("abacus", 2, "error: JAX_PLATFORMS=abacus finds no device: Unable to init"),
    ],
)
def test_cuda_without_a_gpu_is_one_line(plain, tmp_path, platforms, code, message):
    """Row 46: JAX logs a traceback and takes the CPU, or raises an assertion without a word."""
    plugin = tmp_path / "jax_plugins" / "xla_cuda_of_this_test"
    plugin.mkdir(parents=True)
    (plugin / "__init__.py").write_text(PLUGIN)
    done = subprocess.run(
        [sys.executable, "-m", "sentiment_jax.main", "--mode=predict", f"--workdir={plain}"]
        + ["--text=A fine film."],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr == message if code == 0 else done.stderr.startswith(message)
    assert done.stderr.count("\n") == bool(message)
    assert bool(done.stdout) == (code == 0)


WIDE = "--xla_cpu_prefer_vector_width=512"


@pytest.mark.parametrize(
    ("flags", "then"),
    [
        ("", WIDE),
        ("--xla_dump_to=x", f"--xla_dump_to=x {WIDE}"),
        ("--xla_cpu_prefer_vector_width=128", "--xla_cpu_prefer_vector_width=128"),
        ("file_of_flags", "file_of_flags"),
    ],
)
def test_every_mode_uses_wide_vectors_unless_the_user_says_otherwise(monkeypatch, flags, then):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(startup, "_has_devices", lambda: False)
    for _ in range(2):
        startup.start(None)
        assert os.environ["XLA_FLAGS"] == then


DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    ("flags", "deterministic", "then", "holds"),
    [
        (WIDE, True, f"{WIDE} {DETERMINISTIC}", True),
        (WIDE, False, WIDE, False),
        (f"{WIDE} --xla_gpu_deterministic_ops=false", True, None, False),
        (f"{WIDE} --xla_gpu_deterministic_ops", True, None, True),
    ],
)
def test_a_gpu_is_deterministic_unless_the_user_says_otherwise(
    monkeypatch, tmp_path, small_config, flags, deterministic, then, holds
):
    """A flag of a GPU is set only where CUDA is installed: it would be news to runs on a CPU."""
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(startup, "_has_devices", lambda: False)
    small_config.deterministic = deterministic
    startup.start(small_config)
    assert os.environ["XLA_FLAGS"] == flags
    (tmp_path / "jax_plugins" / "xla_cuda12").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda12" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    startup.start(small_config)
    assert os.environ["XLA_FLAGS"] == (then or flags)
    assert startup.is_deterministic() == holds


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 12), 1), ((12, 8), 0), ((8, 13), 0), ((8, 8), 0), ((7,), None), ((0,), None), ((), None)],
)
def test_the_longest_axis_that_fits_is_split(shape, axis):
    assert devices.axis_to_split(shape, 4) == axis


@pytest.mark.parametrize(
    ("size", "nearest"), [(6, "use 4 or 8"), (3, "use 4"), (1, "use 4"), (9, "use 8 or 12")]
)
def test_a_batch_that_devices_cannot_share(monkeypatch, size, nearest):
    monkeypatch.setattr(devices, "find_devices", lambda: [None] * 4)
    devices.check_batch_size("batch_size", 8)
    devices.check_batch_size("batch_size", 8, parts=2)
    with pytest.raises(InputError, match="12 .*4 devices in gradient_accumulation=2 .*use 8 or 16"):
        devices.check_batch_size("batch_size", 12, parts=2)
    with pytest.raises(InputError, match=f"batch_size={size} does not divide .* 4 .*{nearest}$"):
        devices.check_batch_size("batch_size", size)
