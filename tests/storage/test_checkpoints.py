import shutil
from collections import namedtuple

import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.errors import InputError, RunError
from sentiment_jax.runtime import devices
from sentiment_jax.storage.checkpoints import MANIFEST, Checkpoints
from sentiment_jax.storage.run_directory import find_run

Usage = namedtuple("Usage", "total used free")


def state(value):
    return {"kernel": jnp.full((3, 2), value), "bias": jnp.arange(4.0) + value}


def save(checkpoints, step, accuracy=None, loss=0.5):
    metrics = None if accuracy is None else {"accuracy": accuracy, "loss": loss}
    checkpoints.save(step, state(step), {"mu": jnp.ones(3) * step}, {"step": step}, metrics)


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "checkpoints"


@pytest.fixture
def filled(directory):
    """Steps 10 (best), 30 and 40 are what is left of five saves that got worse."""
    checkpoints = Checkpoints(directory)
    for step, accuracy in ((10, 0.9), (20, 0.8), (25, None), (30, 0.7), (40, 0.6)):
        save(checkpoints, step, accuracy)
    checkpoints.close()
    return directory


def restored(checkpoints, step):
    template = devices.abstract(state(0.0), devices.data_mesh())
    return checkpoints.restore(step, params=template)


def test_the_last_two_and_the_best_are_kept(filled):
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30, 40]
    assert checkpoints.best_step() == 10
    items = restored(checkpoints, 10)
    np.testing.assert_array_equal(items["params"]["bias"], np.arange(4.0) + 10)
    assert items["bookkeeping"] == {"step": 10}


def test_ties_go_to_the_lower_loss(directory):
    checkpoints = Checkpoints(directory)
    for step, loss in ((1, 0.3), (2, 0.2), (3, 0.4), (4, 0.5)):
        save(checkpoints, step, 0.8, loss)
    checkpoints.close()
    assert Checkpoints(directory).best_step() == 2
    assert Checkpoints(directory).steps == [2, 3, 4]


def test_a_step_saved_again_with_its_score_counts_as_validated(directory):
    checkpoints = Checkpoints(directory)
    save(checkpoints, 5)
    assert checkpoints.best_step() is None
    save(checkpoints, 5, 0.7)
    checkpoints.close()
    assert Checkpoints(directory).best_step() == 5


def newest_array_file(directory, step):
    files = (directory / str(step) / "params").rglob("*")
    return max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "metrics", "manifest"])
def test_a_damaged_step_is_set_aside(filled, damage):
    path = newest_array_file(filled, 40)
    if damage == "flip":
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(bytes(raw))
    elif damage == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "delete":
        path.unlink()
    elif damage == "metrics":
        (filled / "40" / "metrics" / "metrics").write_text("{")
    else:
        (filled / "40" / MANIFEST).write_text("{")
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30]
    assert list(checkpoints.faults) == [40]
    assert (filled / "40.corrupt").is_dir()
    save(checkpoints, 50, 0.5)  # the manager opens and goes on
    checkpoints.close()
    assert Checkpoints(filled).steps == [10, 30, 50]


def test_a_step_without_a_manifest_was_never_finished(filled):
    (filled / "77").mkdir()
    assert Checkpoints(filled).steps == [10, 30, 40]
    assert not (filled / "77").exists()
    (filled / "40" / MANIFEST).unlink()
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30]
    assert not checkpoints.faults
    # But one older than the newest had been finished.
    (filled / "10" / MANIFEST).unlink()
    assert Checkpoints(filled).faults == {10: "MANIFEST.json is missing"}


def test_read_only_touches_nothing(filled):
    newest_array_file(filled, 40).write_bytes(b"")
    before = sorted(str(path) for path in filled.rglob("*"))
    checkpoints = Checkpoints(filled, read_only=True)
    assert checkpoints.steps == [10, 30]
    restored(checkpoints, 10)
    assert sorted(str(path) for path in filled.rglob("*")) == before


def test_a_full_disk_is_told_before_anything_is_written(filled, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100, 90, 10))
    checkpoints = Checkpoints(filled)
    with pytest.raises(RunError, match=r"10 bytes free .* 52 needed .* step 50"):
        save(checkpoints, 50)
    checkpoints.close()
    monkeypatch.undo()
    assert Checkpoints(filled).steps == [10, 30, 40]


def test_find_run_names_the_path_and_the_steps(tmp_path, filled):
    with pytest.raises(InputError, match="no run directory at"):
        find_run(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"steps found: \[10, 30, 40\]"):
        find_run(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    find_run(tmp_path)
    with pytest.raises(InputError, match=f"did you mean --workdir={tmp_path}"):
        find_run(filled)
    with pytest.raises(InputError, match=f"did you mean --workdir={tmp_path}"):
        find_run(filled / "40")
