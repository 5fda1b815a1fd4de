"""A crash between any two file operations of a save loses nothing: every prefix is tried.

Seen are the operations that Python makes (an audit hook reports them). What Orbax's C++ code writes
lies in N.partial before its manifest, and counts for nothing there; that is tried by cutting it.
"""

import contextlib
import os
import shutil
import sys

import pytest
import runs

from sentiment_jax.errors import InputError
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.storage import checkpoints
from sentiment_jax.storage.checkpoints import MANIFEST, Checkpoints, steps_in
from sentiment_jax.training.trained_model import load_run

TEXTS = ["A quiet, moving film.", "Dull."]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}


class Recorder:
    """Copies a directory before every change of a file in it, while it is switched on."""

    def __init__(self):
        self.watched, self.states = None, None
        sys.addaudithook(self)  # it can't be taken away again

    def __call__(self, event, arguments):
        if self.watched is None:
            return
        writes = (
            event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
        )
        paths = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
        inside = any(path.startswith(str(self.watched)) for path in paths)
        if (event in CHANGES or writes) and (inside or not os.path.isabs(paths[0])):
            self.snapshot()

    def snapshot(self):
        watched, self.watched = self.watched, None  # copying is no change
        for _ in range(100):  # Orbax's threads may change it meanwhile: then once more
            with contextlib.suppress(OSError, shutil.Error):
                content = tuple(
                    (str(path.relative_to(watched)), path.read_bytes() if path.is_file() else None)
                    for path in sorted(watched.rglob("*"))
                )
                if content not in self.states:
                    copy = watched.with_name(f"state-{len(self.states):03}")
                    shutil.rmtree(copy, ignore_errors=True)
                    self.states[content] = shutil.copytree(watched, copy)
                break
        self.watched = watched


RECORDER = Recorder()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory, make_small):
    """An uninterrupted run that saves at every step, and the states that a crash may leave of it.

    Recorded are the saves of the second epoch's last two steps: one of them validated, with older
    ones to delete before and after it.
    """
    root = tmp_path_factory.mktemp("crashes")
    config = make_small()
    config.checkpoint_every = 1
    save, states = Checkpoints.save, {}

    def recorded(self, step, *arguments):
        if step in (5, 6):
            RECORDER.watched, RECORDER.states = root / "run", states
        try:
            save(self, step, *arguments)
            if step in (5, 6):
                RECORDER.snapshot()
        finally:
            RECORDER.watched = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "save", recorded)
        train(config, root / "run")
    return config, root / "run", list(states.values())


def judge(workdir):
    """What a reader makes of a state: p(positive) of two texts, or None for "not yet"."""
    try:
        return predict([load_run(workdir)], TEXTS)[0].tobytes()
    except InputError as error:
        assert "no validated checkpoint yet" in str(error)
        return None


def check(config, expected, states):
    verdicts = [judge(state) for state in states]
    for state in states:
        train(config, state)
        runs.assert_same_run(expected, state)
        assert not list(state.rglob("*.corrupt"))
    # A reader finds a validated checkpoint throughout, from one moment on the new one.
    assert None not in verdicts
    assert sum(a != b for a, b in zip(verdicts, verdicts[1:], strict=False)) <= 1


def names(state):
    """The names in checkpoints/, and which of them are complete."""
    folders = sorted((state / "checkpoints").iterdir())
    return [(folder.name, (folder / MANIFEST).exists()) for folder in folders]


def copies(states, folder):
    return [shutil.copytree(state, folder / state.name) for state in states]


def choose(states, capsys):
    """The states before a rename, or with EVERY_PREFIX=1 all (minutes)."""
    assert len(states) > 40
    chosen = [s for i, s in enumerate(states) if i == 0 or names(s) != names(states[i - 1])]
    assert len(chosen) > 8
    if os.environ.get("EVERY_PREFIX"):
        chosen = states
        with capsys.disabled():
            print(f"{len(states)} states")
    return chosen


@pytest.mark.slow
def test_a_crash_at_any_moment_of_a_save_loses_nothing(crashed, tmp_path, capsys):
    config, expected, states = crashed
    check(config, expected, copies(choose(states, capsys), tmp_path))
    assert "damaged" not in capsys.readouterr().err


class Crash(BaseException):
    """The end of a process."""


class Fuse:
    """Lets `changes` changes of files happen, then crashes before the next one."""

    def __init__(self):
        self.left = None
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.left is not None and event in CHANGES:
            self.left -= 1
            if self.left < 0:
                raise Crash

    def tidy(self, directory, changes):
        """Tidy up after a crash; return whether it came to its end."""
        self.left = changes
        try:
            Checkpoints(directory)
        except Crash:
            return False
        finally:
            self.left = None
        return True


FUSE = Fuse()


def content(directory):
    files = sorted(directory.rglob("*"))
    return {p.relative_to(directory): p.is_file() and p.read_bytes() for p in files}


@pytest.mark.slow
@pytest.mark.timeout(1800 if os.environ.get("EVERY_PREFIX") else 300)
def test_a_second_crash_while_the_first_is_tidied_up_changes_nothing(crashed, tmp_path, capsys):
    """The tidying of a state is cut off before each of its changes, then done again."""
    cuts = 0
    for state in choose(crashed[2], capsys):
        once = shutil.copytree(state / "checkpoints", tmp_path / "once")
        assert FUSE.tidy(once, sys.maxsize)
        expected, complete = content(once), steps_in(once)
        shutil.rmtree(once)
        for changes in range(sys.maxsize):
            twice = shutil.copytree(state / "checkpoints", tmp_path / "twice")
            ended = FUSE.tidy(twice, changes)
            assert steps_in(twice) == complete  # what a reader finds meanwhile
            assert FUSE.tidy(twice, sys.maxsize)
            assert content(twice) == expected, (state.name, changes)
            shutil.rmtree(twice)
            if ended:
                break
            cuts += 1
    assert cuts > 100


@pytest.mark.slow
def test_whatever_orbax_has_written_of_a_partial_one_is_tidied_up(crashed, tmp_path):
    config, expected, states = crashed
    partial = [state for state in states if any(state.glob("checkpoints/*.partial/*/*"))]
    state = shutil.copytree(partial[-1], tmp_path / "state")
    files = sorted(path for path in state.glob("checkpoints/*.partial/**/*") if path.is_file())
    assert files
    for path in files:
        if path.name != MANIFEST:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for path in state.glob(f"checkpoints/*.partial/{MANIFEST}"):
        path.unlink()
    train(config, state)
    runs.assert_same_run(expected, state)
    assert not list(state.rglob("*.corrupt"))
