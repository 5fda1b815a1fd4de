import errno
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint import v1

from sentiment_jax.errors import DiskFull, InputError
from sentiment_jax.runtime import devices
from sentiment_jax.storage import files
from sentiment_jax.storage.checkpoints import MANIFEST, Checkpoints, steps_in
from sentiment_jax.storage.run_directory import RunDirectory


def state(value):
    return {"kernel": jnp.full((3, 2), value), "bias": jnp.arange(4.0) + value}


def save(checkpoints, step, best=None):
    checkpoints.save(step, state(step), {"mu": jnp.ones(3) * step}, {"step": step}, best)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Steps 10 (best), 30 and 40 are what is left of five saves that got worse."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoints = Checkpoints(directory)
    for step in (10, 20, 25, 30, 40):
        save(checkpoints, step, best=10)
    return directory


@pytest.fixture
def filled(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def test_the_last_two_and_the_best_are_kept(filled):
    """As Orbax's own manager reads them."""
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30, 40]
    template = devices.abstract(state(0.0), devices.data_mesh())
    params = checkpoints.read(10, "params", template)
    np.testing.assert_array_equal(params["bias"], np.arange(4.0) + 10)
    assert checkpoints.bookkeeping(10) == {"step": 10}
    with ocp.CheckpointManager(filled, item_names=("params", "bookkeeping")) as manager:
        assert list(manager.all_steps()) == [10, 30, 40]
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(state(0.0)), bookkeeping=ocp.args.JsonRestore()
        )
        found = manager.restore(30, args=items)
    np.testing.assert_array_equal(found["params"]["bias"], np.arange(4.0) + 30)
    assert found["bookkeeping"] == {"step": 30}


def test_the_interface_of_orbax_1_is_used_where_it_is_out(tmp_path, monkeypatch):
    """There the interface V1 is the top level."""
    for name in v1.__dict__.keys() - vars(ocp).keys() | {"metadata"}:
        monkeypatch.setattr(ocp, name, getattr(v1, name), raising=False)
    monkeypatch.delattr(ocp, "v1")
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 7)
    np.testing.assert_array_equal(checkpoints.read(7, "params")["bias"], np.arange(4.0) + 7)
    template = devices.abstract(state(0.0), devices.data_mesh())
    assert checkpoints.read(7, "params", template)["bias"][0] == 7


def test_what_is_left_of_a_failed_save_is_overwritten(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "7.partial" / "params").mkdir(parents=True)
    (tmp_path / "7.partial" / "params" / "d").write_text("half")
    save(checkpoints, 7)
    assert Checkpoints(tmp_path).steps == [7]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("params", lambda raw: raw[:99] + bytes([raw[99] ^ 1]) + raw[100:]),
        ("params", lambda raw: raw[:-1]),
        ("params", None),
        ("bookkeeping/metadata", lambda raw: b"{"),
        (MANIFEST, lambda raw: b"{"),
    ],
)
def test_a_damaged_step_is_set_aside(filled, name, damage):
    path = filled / "40" / name
    if name == "params":  # its largest file
        path = max(filter(Path.is_file, path.rglob("*")), key=lambda file: file.stat().st_size)
    raw = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(raw))
    before = sorted(filled.rglob("*"))
    checkpoints = Checkpoints(filled, read_only=True)
    assert checkpoints.fault(40) and not checkpoints.fault(10)
    assert sorted(filled.rglob("*")) == before, "a reader changed what it read"
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30]
    assert list(checkpoints.faults) == [40]
    assert (filled / "40.corrupt").is_dir()
    save(checkpoints, 50, best=10)
    assert Checkpoints(filled).steps == [10, 30, 50]


@pytest.mark.parametrize("name", [MANIFEST, "bookkeeping/metadata"])
def test_a_step_that_another_user_wrote_for_himself_is_not_called_damaged(
    filled, monkeypatch, name
):
    """Nor is it set aside, and nothing says to replace it: it may be whole."""

    def deny(path, regular=files.regular):
        if path == filled / "40" / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return regular(path)

    monkeypatch.setattr(files, "regular", deny)
    for read_only in (True, False):
        with pytest.raises(PermissionError, match=name):
            Checkpoints(filled, read_only=read_only).fault(40)
    assert steps_in(filled) == [10, 30, 40]
    with pytest.raises(PermissionError, match=name):
        files.check_checksum(filled / "40" / name, {}, "delete it")


def test_what_is_no_checkpoint_is_ignored_and_named(filled):
    (filled / "77").mkdir()
    (filled / "007").mkdir()
    (filled / "99").write_text("")
    (filled / "98").symlink_to(filled / "40")
    (filled / "5.partial").mkdir()  # half-written: tidied up
    (filled / "6.deleted").mkdir()  # half-deleted: as above
    checkpoints = Checkpoints(filled)
    assert checkpoints.steps == [10, 30, 40]
    assert not checkpoints.faults
    assert sorted(checkpoints.ignored) == ["007", "77", "98", "99"]
    names = sorted(path.name for path in filled.iterdir())
    assert names == ["007", "10", "30", "40", "77", "98", "99"]
    save(checkpoints, 77, best=10)  # the folder of that name was not a checkpoint: set aside
    assert Checkpoints(filled).steps == [10, 40, 77]
    assert (filled / "77.corrupt").is_dir()


def test_a_full_disk_is_reported_before_anything_is_written(filled, monkeypatch):
    """Needed are parameters and optimizer state, and a tenth more."""
    usage = shutil.disk_usage(filled)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=57))
    with pytest.raises(DiskFull, match=r"57 bytes free .* 52 needed .* step 50"):
        save(Checkpoints(filled), 50)
    assert Checkpoints(filled).steps == [10, 30, 40]


def test_a_directory_that_is_no_run_is_refused_with_a_hint(tmp_path, filled):
    places = {"": r"steps found: \[10, 30, 40\]", "nothing": "no run directory at"}
    below = dict.fromkeys(["checkpoints", "checkpoints/40"], f"did you mean --workdir={tmp_path}")
    for place, message in (places | below).items():
        if place in below:
            (tmp_path / "config.json").write_text("{}")
        with pytest.raises(InputError, match=message):
            RunDirectory(tmp_path / place).check_found()
    RunDirectory(tmp_path).check_found()
