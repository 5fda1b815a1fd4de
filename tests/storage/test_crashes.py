"""A crash between any two file operations of a save loses nothing: every prefix is tried.

And one between those of a --fresh leaves the old run whole, no run, or the new one.

An audit hook reports the operations that Python makes. What Orbax's C++ code writes lies in
N.partial before its manifest and does not count there; that is tested by truncating it.
"""

import contextlib
import functools
import os
import shutil
import sys
import threading

import pytest
import runs

from sentiment_jax.analysis.records import collect
from sentiment_jax.config.recipes import override
from sentiment_jax.errors import InputError
from sentiment_jax.modes import train as train_mode
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import MANIFEST, Checkpoints, steps_in
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.trained_model import load_run

TEXTS = ["A quiet, moving film.", "Dull."]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}


def content(directory):
    files = sorted(directory.rglob("*"))
    return tuple((p.relative_to(directory), p.is_file() and p.read_bytes()) for p in files)


def names_in(directory):
    return tuple(sorted(directory.glob("*")) + sorted(directory.glob("checkpoints/*")))


ACTIONS = []  # what to do before each change of a file
ACTING = threading.Lock()


def hook(event, arguments):
    """Act before a change; those that the action makes do not count."""
    mode = arguments[1] if event == "open" and isinstance(arguments[1], str) else ""
    changing = event in CHANGES or set("wax+") & set(mode)
    if ACTIONS and changing and ACTING.acquire(blocking=False):
        try:
            for action in ACTIONS:
                action()
        finally:
            ACTING.release()


sys.addaudithook(hook)  # it can't be removed again


@contextlib.contextmanager
def before_each_change(action):
    ACTIONS.append(action)
    try:
        yield
    finally:
        ACTIONS.clear()


def record(directory, states, content=content):
    """Copy a directory, unless its content is in `states`: content -> copy."""
    for _ in range(100):  # Orbax's threads may change it meanwhile: then once more
        with contextlib.suppress(OSError, shutil.Error):
            found = content(directory)
            if found not in states:
                copy = directory.with_name(f"state-{len(states):03}")
                shutil.rmtree(copy, ignore_errors=True)
                states[found] = shutil.copytree(directory, copy)
            break


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, make_small):
    """An uninterrupted run that saves at every step, and the states that a crash may leave of it.

    Recorded are the saves of the second epoch's last two steps: one of them validated, with older
    ones to delete before and after it.
    """
    run = tmp_path_factory.mktemp("crashes") / "run"
    config = make_small()
    config.checkpoint_every = 1
    states = {}
    action = functools.partial(record, run, states)
    save = Checkpoints.save

    def recorded(self, step, *arguments, **options):
        watching = before_each_change(action) if step in (5, 6) else contextlib.nullcontext()
        with watching:
            save(self, step, *arguments, **options)
        if step in (5, 6):
            action()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", recorded)
        train(config, run)
    return config, run, list(states.values())


def names(state):
    """The names in checkpoints/, and which of them are complete."""
    folders = sorted((state / "checkpoints").iterdir())
    return [(folder.name, (folder / MANIFEST).exists()) for folder in folders]


def before_renames(states):
    """The states before a rename, or with EVERY_PREFIX=1 all (minutes)."""
    assert len(states) > 40
    chosen = [s for i, s in enumerate(states) if i == 0 or names(s) != names(states[i - 1])]
    assert len(chosen) > 8
    return states if os.environ.get("EVERY_PREFIX") else chosen


def read(workdir):
    """The probabilities that a reader of a state gets, or None for "not yet"."""
    try:
        return predict([load_run(workdir)], TEXTS)[0].tobytes()
    except InputError as error:
        assert "no validated checkpoint yet" in str(error)
        return None


@pytest.mark.slow
def test_a_crash_at_any_moment_of_a_save_loses_nothing(crashed, tmp_path, capsys):
    config, expected, states = crashed
    copies = [shutil.copytree(s, tmp_path / s.name) for s in before_renames(states)]
    predictions = [read(state) for state in copies]
    for state in copies:
        train(config, state)
        runs.assert_same_run(expected, state)
        assert not list(state.rglob("*.corrupt"))
    # A reader finds a validated checkpoint throughout, from one moment on the new one.
    assert None not in predictions
    assert sum(a != b for a, b in zip(predictions, predictions[1:], strict=False)) <= 1
    assert "damaged" not in capsys.readouterr().err


class Crash(BaseException):
    """The end of a process."""


def tidy(directory, changes):
    """Tidy up after a crash, crash again after some changes; return whether that did not happen."""
    left = iter(range(changes))

    def crash():
        if next(left, None) is None:
            raise Crash

    try:
        with before_each_change(crash):
            Checkpoints(directory)
    except Crash:
        return False
    return True


@pytest.mark.slow
def test_a_second_crash_while_the_first_is_tidied_up_changes_nothing(crashed, tmp_path):
    """The tidying of a state is cut off before each of its changes, then done again."""
    cuts = 0
    for state in before_renames(crashed[2]):
        once = shutil.copytree(state / "checkpoints", tmp_path / state.name / "once")
        Checkpoints(once)
        ended = False
        changes = 0
        while not ended:
            twice = shutil.copytree(state / "checkpoints", tmp_path / state.name / f"{changes}")
            ended = tidy(twice, changes)
            assert steps_in(twice) == steps_in(once)  # what a reader finds meanwhile
            Checkpoints(twice)
            assert content(twice) == content(once), (state.name, changes)
            changes += 1
        cuts += changes - 1
    assert cuts > 100


@pytest.mark.slow
def test_a_partial_checkpoint_is_tidied_up_whatever_orbax_has_written(crashed, tmp_path):
    config, expected, states = crashed
    partial = [state for state in states if any(state.glob("checkpoints/*.partial/*/*"))]
    state = shutil.copytree(partial[-1], tmp_path / "state")
    files = [path for path in state.glob("checkpoints/*.partial/**/*") if path.is_file()]
    assert files
    for path in files:
        if path.name == MANIFEST:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    train(config, state)
    runs.assert_same_run(expected, state)
    assert not list(state.rglob("*.corrupt"))


@pytest.fixture(scope="module", params=[0, pytest.param(2, marks=pytest.mark.slow)])
def restarted(request, tmp_path_factory, make_small):
    """An old run (also a cross-validation), a new one, and what a crash of --fresh may leave."""
    root = tmp_path_factory.mktemp("restarted")
    old = make_small(**{"data.folds": request.param, "epochs": 2})
    new = override(old, {"seed": 5, "data.folds": 0})
    train(new, root / "new")
    train(old, root / "old")
    run = shutil.copytree(root / "old", root / "run")
    states = {}
    # What is half deleted is left out, but with EVERY_PREFIX=1.
    of = content if os.environ.get("EVERY_PREFIX") else names_in
    action = functools.partial(record, run, states, of)
    remove = RunDirectory.remove
    start_run = train_mode.start_run

    def begin(directory):
        ACTIONS.append(action)
        remove(directory)

    def end(*arguments):
        ACTIONS.clear()
        action()
        return start_run(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "remove", begin)
        patch.setattr(train_mode, "start_run", end)
        train(new, run, fresh=True)
    runs.assert_same_run(root / "new", run)
    return old, new, root, list(states.values())


def is_whole(state):
    """Whether a state is a run to all readers; to none of them if it is not."""
    if RunDirectory(state).outcome()[0] == "finished":
        return True
    for use in load_run, lambda path: evaluate_run(path, "test"), lambda path: collect([path]):
        with pytest.raises(InputError, match="no checkpoint yet|no sweep.json and no|nothing is f"):
            use(state)
    return False


def test_a_crash_at_any_moment_of_fresh_leaves_the_old_run_or_none(restarted, tmp_path):
    """Rows 59 and 60; to go on from there, --fresh need not be given again."""
    old, new, root, states = restarted
    assert [*map(is_whole, states)] == [True] + [False] * (len(states) - 1)
    assert len(states) > 25, len(states)
    first, expected = (runs.contents_without_lock(path) for path in (states[0], root / "old"))
    assert [raw for raw, _ in first.values()] == [raw for raw, _ in expected.values()]
    with pytest.raises(InputError, match="was started with another config"):
        train(new, states[0])
    chosen = states[1:] if os.environ.get("EVERY_PREFIX") else states[1 :: len(states) // 4]
    for state in chosen:
        copy = shutil.copytree(state, tmp_path / state.name)
        train(new, copy)
        runs.assert_same_run(root / "new", copy)
        assert not list(copy.rglob("*.deleted"))
        assert not (copy / "folds").exists()
