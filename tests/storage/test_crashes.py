"""A crash between any two file operations of a save loses nothing: every prefix is tried.

And one between those of a --fresh leaves the old run whole, no run, or the new one. One in a
cross-validation whose sources are then replaced, moved or deleted mixes nothing.

An audit hook reports the operations that Python makes. What Orbax's C++ code writes lies in
N.partial before its manifest and does not count there; that is tested by truncating it. Of the
operations that change neither a folder's name nor what is complete, a few are tried; with
EVERY_PREFIX=1, every operation is (minutes, for cross-validations an hour).
"""

import collections
import contextlib
import itertools
import os
import shutil
import sys
import threading
from types import SimpleNamespace

import pretrained
import pytest
import runs
from reviews import read_table, refuses, write_csv
from safetensors.numpy import load_file, save_file

from configs import bert
from sentiment_jax.analysis.records import collect
from sentiment_jax.config.recipes import override
from sentiment_jax.data.dataset import SAMPLE
from sentiment_jax.errors import InputError
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.train import train
from sentiment_jax.storage.checkpoints import MANIFEST, Checkpoints, steps_in
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import fit
from sentiment_jax.training.trained_model import load_run

SMALLER = {**runs.ONE_SHAPE, "data.vocabulary_size": 20}  # the same programs in each fold
EVERY_PREFIX = "EVERY_PREFIX" in os.environ
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink"}
ACTIONS = []  # what to do before each change of a file
ACTING = threading.Lock()


def content(directory):
    files = sorted(directory.rglob("*"))
    return tuple((p.relative_to(directory), p.is_file() and p.read_bytes()) for p in files)


def names(directory):
    """The names in a run, or in its checkpoints, and which of these are complete."""
    paths = sorted([*directory.glob("*"), *directory.glob("checkpoints/*")])
    return tuple((path.name, (path / MANIFEST).exists()) for path in paths)


def fill(directory):
    return len([*directory.rglob("*")])


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
def recording(directory, states, outline=lambda path: (names(path), fill(path) // 8)):
    """Meanwhile, before each change, copy a directory of new outline (or content) to `states`."""

    def record():
        for _ in range(100):  # Orbax's threads may change it meanwhile: then once more
            with contextlib.suppress(OSError, shutil.Error):
                found = (content if EVERY_PREFIX else outline)(directory)
                if found not in states:
                    copy = directory.with_name(f"state-{len(states):03}")
                    shutil.rmtree(copy, ignore_errors=True)
                    states[found] = shutil.copytree(directory, copy)
                break

    ACTIONS.append(record)
    try:
        yield
    finally:
        ACTIONS.clear()
    record()


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A run that saves at every step, and the states that a crash may leave of it.

    Recorded are the saves of the second epoch's last two steps: one of them validated, with older
    ones to delete before and after it.
    """
    run = tmp_path_factory.mktemp("crashes") / "run"
    config = runs.make_small(**SMALLER, checkpoint_every=1)
    states = {}
    save = Checkpoints.save

    def recorded(self, step, *arguments, **options):
        with recording(run, states) if step in (5, 6) else contextlib.nullcontext():
            save(self, step, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", recorded)
        train(config, run)
    assert len(states) > 20
    chosen = set()
    for _, alike in itertools.groupby(states.values(), key=names):
        group = list(alike)
        # What is written and deleted, whole and hardly there.
        chosen |= set(group) if EVERY_PREFIX else {max(group, key=fill), min(group, key=fill)}
    return config, run, sorted(chosen)


@pytest.mark.parametrize("every", [EVERY_PREFIX, pytest.param(True, marks=pytest.mark.slow)])
def test_a_crash_at_any_moment_of_a_save_loses_nothing(crashed, tmp_path, capsys, every):
    """By default, states with the same complete checkpoints are resumed once."""
    config, expected, states = crashed
    steps = []
    chosen = {}
    for state in states:
        steps.append(load_run(state).step)
        checkpoints = Checkpoints(state / "checkpoints", read_only=True)
        known = repr([checkpoints.bookkeeping(step) for step in checkpoints.steps])
        chosen[state if every else known] = state
    # A reader finds a validated checkpoint throughout, from one moment on the new one.
    assert steps[0] == 3 and steps == sorted(steps) and len(steps) > 8
    assert len(chosen) > 2
    for state in chosen.values():
        copy = shutil.copytree(state, tmp_path / state.name)
        train(config, copy)
        runs.assert_same_run(expected, copy)
        assert not list(copy.rglob("*.corrupt"))
    assert "damaged" not in capsys.readouterr().err


def test_a_partial_checkpoint_is_tidied_up_whatever_orbax_has_written(crashed, tmp_path):
    config, expected, states = crashed
    partial = [state for state in states if any(state.glob("checkpoints/*.partial/*/*"))]
    state = shutil.copytree(partial[-1], tmp_path / "state")
    for path in state.glob("checkpoints/*.partial/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for path in state.glob(f"checkpoints/*.partial/{MANIFEST}"):
        path.unlink()
    train(config, state)
    runs.assert_same_run(expected, state)
    assert not list(state.rglob("*.corrupt"))


def test_a_second_crash_while_the_first_is_tidied_up_changes_nothing(crashed, tmp_path):
    """The tidying of a state is cut off before its changes, then done again."""
    count = 0
    for state in crashed[2]:
        once = shutil.copytree(state / "checkpoints", tmp_path / state.name / "once")
        cut = {}
        with recording(once, cut):
            Checkpoints(once)
        for twice in cut.values():
            assert steps_in(twice) == steps_in(once)  # what a reader finds meanwhile
            Checkpoints(twice)
            assert content(twice) == content(once), twice
        count += len(cut)
    assert count > 40


@pytest.fixture(scope="module", params=[2, pytest.param(0, marks=pytest.mark.slow)])
def restarted(request, tmp_path_factory):
    """An old run (also a cross-validation), a new one, and what a crash of --fresh may leave."""
    root = tmp_path_factory.mktemp("restarted")
    old = runs.make_small(**SMALLER, epochs=1, **{"data.folds": request.param})
    new = override(old, {"seed": 5, "data.folds": 0})
    train(new, root / "new")
    train(old, root / "old")
    run = shutil.copytree(root / "old", root / "run")
    states = {}
    watch = recording(run, states)
    remove = RunDirectory.remove
    open_checkpoints = fit.open_checkpoints

    def begin(directory):
        watch.__enter__()
        remove(directory)

    def end(directory):
        watch.__exit__(None, None, None)
        return open_checkpoints(directory)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "remove", begin)
        patch.setattr(fit, "open_checkpoints", end)
        train(new, run, fresh=True)
    runs.assert_same_run(root / "new", run)
    return old, new, root, list(states.values())


def is_whole(state):
    """Whether a state is a run to all readers; to none of them if it is not."""
    if RunDirectory(state).outcome()[0] == "finished":
        return True
    for use in load_run, lambda path: evaluate_split([path], "test"), lambda path: collect([path]):
        refuses("no checkpoint yet|no sweep.json and no|nothing is f", use, state)
    return False


def test_a_crash_at_any_moment_of_fresh_leaves_the_old_run_or_none(restarted, tmp_path):
    """Old parameters never pass for the new seed's; --fresh need not be given again."""
    old, new, root, states = restarted
    assert [*map(is_whole, states)] == [True] + [False] * (len(states) - 1)
    assert len(states) > 25
    first, expected = (runs.contents_without_lock(path) for path in (states[0], root / "old"))
    assert [raw for raw, _ in first.values()] == [raw for raw, _ in expected.values()]
    refuses("was started with another config", train, new, states[0])
    for state in states[1 :: 1 if EVERY_PREFIX else len(states) // 4]:
        copy = shutil.copytree(state, tmp_path / state.name)
        train(new, copy)
        runs.assert_same_run(root / "new", copy)
        assert not list(copy.rglob("*.deleted"))
        assert not (copy / "folds").exists()


def milestones(directory):
    """What a cross-validation and its folds have: files, complete checkpoints."""
    found = [directory, *sorted(directory.glob("folds/*"))]
    files = ("config.json", "probabilities-val.npy", "result.json")
    return tuple(
        (
            *(p.name for p in map(run.joinpath, files) if p.exists()),
            *steps_in(run / "checkpoints"),
            run.name,
        )
        for run in found
    )


def write_source(root, kind):
    """Write what a run learns from: a run to start from, and a table."""
    rows = [(f"{row['text']} {kind} words", row["label"]) for row in read_table(SAMPLE)[:80]]
    write_csv(root / "table.csv", rows)
    train(runs.make_small(**SMALLER, epochs=1, seed=2 * len(kind)), root / "source")
    return ["source", "table.csv"]


def descendant(root):
    """The config of one that learns from what lies there."""
    places = {"model.pretrained": str(root / "source"), "data.path": str(root / "table.csv")}
    return runs.make_small(**SHORT, **places, **{"data.source": "csv"})


def write_encoder(root, kind):
    """Write a folder of pretrained weights."""
    texts = [f"{kind} {line}" for line in SAMPLE.read_text(encoding="utf-8").splitlines()[:300]]
    folder = pretrained.write_folder(root / "folder", "distilbert", texts)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v + len(kind) for k, v in weights.items()}, folder / "model.safetensors")
    return ["folder/model.safetensors", "folder/tokenizer.json", "folder"]


def encoder(root):
    """The config of one that starts from the folder there."""
    changes = {name: value for name, value in runs.SMALL.items() if "model" not in name} | SHORT
    changes |= {"data.source": "sample", "model.pretrained": str(root / "folder")}
    return override(bert.get_config(), changes)


SHORT = SMALLER | {
    "epochs": 1,
    "batch_size": 8,
    "checkpoint_every": 100,
    "data.folds": 2,
    "data.limit": 24,
    "data.test_limit": 8,
    "data.validation_fraction": 0.0,
}


KINDS = [(write_source, descendant), pytest.param((write_encoder, encoder), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=KINDS, ids=["run", "encoder"])
def crossed(request, tmp_path_factory):
    """A cross-validation, what it learns from, and the states that a crash may leave of it."""
    write, make_config = request.param
    root = tmp_path_factory.mktemp("crossed")
    for kind in ("own", "another"):
        (root / kind).mkdir()
        names = write(root / kind, kind)
    states = {}
    watched = root / "run"
    with recording(watched, states, milestones):
        train(make_config(root / "own"), watched)
    return SimpleNamespace(
        root=root, make_config=make_config, names=names, states=[*states.values()]
    )


@contextlib.contextmanager
def changed(root, name, how):
    """Meanwhile one source is another, gone or (all of them) elsewhere; yield where they are."""
    path = root / "own" / name
    aside = root / "elsewhere"
    path.rename(aside)
    other = root / "another" / name
    if how == "replaced":
        (shutil.copytree if other.is_dir() else shutil.copy)(other, path)
    try:
        yield aside if how == "moved" else root / "own"
    finally:
        if path.exists():
            (shutil.rmtree if path.is_dir() else os.remove)(path)
        aside.rename(path)


def assert_same_folds(expected, found):
    """Two cross-validations are the same, wherever their sources were."""
    for run in (".", "folds/1", "folds/2"):
        shutil.copy(expected / run / "config.json", found / run)
        kept = steps_in(expected / run / "checkpoints")
        for step in {*steps_in(found / run / "checkpoints")} - {*kept}:
            shutil.rmtree(found / run / "checkpoints" / str(step))  # superseded by the last one
        runs.assert_same_run(expected / run, found / run)
    name = "predictions-val.csv"
    assert (found / name).read_bytes() == (expected / name).read_bytes()


LONG = (pytest.mark.slow, pytest.mark.timeout(7200 if EVERY_PREFIX else 300))


@pytest.mark.parametrize("most", [False, pytest.param(True, marks=LONG)])
def test_a_crash_of_a_cross_validation_mixes_no_sources(crossed, tmp_path, most):
    """Its folds and its last model learn from the same, or the command is refused.

    By default, every change is tried on the state in the middle.
    """
    root = crossed.root
    ways = [("", "moved"), *itertools.product(crossed.names, ("replaced", "gone"))]
    states = crossed.states if most else [crossed.states[len(crossed.states) // 2]]
    tried = [*itertools.product(states, ways)]
    if most and not EVERY_PREFIX:  # the ways in turn
        tried = [*zip(states, itertools.cycle(ways), strict=False)]
    count = collections.Counter()
    for state, (name, how) in tried:
        run = shutil.copytree(state, tmp_path / "run")
        before = runs.contents_without_lock(run)
        expected = root / "run"
        with changed(root, name, how) as sources:
            config = crossed.make_config(sources)
            if how == "replaced" and not any(state.glob("folds/*/config.json")):
                expected = root / f"another-{name}".replace("/", "-")
                if not expected.exists():
                    train(config, expected)
            try:
                train(config, run)
                assert_same_folds(expected, run)
                outcome = "equal" if expected.name == "run" else "begun"
            except InputError as error:
                assert "\n" not in str(error)
                assert runs.contents_without_lock(run) == before
                outcome = "refused"
        count[how, outcome] += 1
        shutil.rmtree(run)
    print(f"{len(states)} states, {len(tried)} changes: {dict(count)}")
    assert {*count} <= {("moved", "equal"), ("replaced", "begun")} | {
        (how, outcome) for how in ("replaced", "gone") for outcome in ("equal", "refused")
    }
    assert count["replaced", "refused"] and count["gone", "refused"] and count["moved", "equal"]
