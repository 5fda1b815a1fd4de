"""A run directory: its lock, what may stand in it, and where it may be."""

import errno
import fcntl
import itertools
import os
import shutil
from pathlib import Path
from unittest.mock import Mock

import golden
import pytest
import runs
from reviews import refuses, write_csv
from sweeping import ONE_TRIAL
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

import sentiment_jax
from sentiment_jax.errors import InUse
from sentiment_jax.modes.evaluate import evaluate_file, evaluate_split
from sentiment_jax.modes.explain import explain_run
from sentiment_jax.modes.export import Export, export_pretrained
from sentiment_jax.modes.predict import TextSource, predict_runs
from sentiment_jax.modes.pretrain import pretrain
from sentiment_jax.modes.report import report
from sentiment_jax.modes.sweep import sweep
from sentiment_jax.modes.train import train
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.run_directory import RunDirectory, lock_run, tidied
from sentiment_jax.training.trained_model import load_run


def test_a_lock_names_its_owner_and_ends_with_it(tmp_path):
    """What a killed process wrote does not hold a lock; the kernel has ended that."""
    (tmp_path / "lock").write_text("pid 1 on elsewhere since then\n")
    for _ in range(2):
        with lock_run(tmp_path):
            (line,) = (tmp_path / "lock").read_text().splitlines()
            assert line.startswith(f"pid {os.getpid()} on ") and " since 20" in line
            with pytest.raises(InUse, match=f"is in use by {line}; wait"), lock_run(tmp_path):
                pass
            with pytest.raises(BlockingIOError), (tmp_path / "lock").open() as other:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as another process does


def test_a_file_system_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, capsys):
    error = OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(run_directory.fcntl, "flock", Mock(side_effect=error))
    with lock_run(tmp_path):
        pass
    warning = f"warning: {tmp_path} can't be locked (No locks available): let no other process "
    assert capsys.readouterr().err.startswith(warning)


FILES = ["lock", "config.json", "env.json", "metrics.jsonl", "curves.png", "predictions.csv"]
MAKERS = [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("target")]
ODD = [(name, make) for name in FILES for make in MAKERS]


@pytest.mark.parametrize(("name", "make"), [*ODD, ("checkpoints", Path.touch)])
def test_what_is_no_file_is_refused_at_once_and_never_written_through(tmp_path, name, make):
    """Or it would be found after the training, and the target of a link overwritten."""
    (tmp_path / "target").write_text("mine")
    make(tmp_path / name)
    for use in run_directory.prepare_workdir, load_run:
        refuses(f"{name} is not what a run writes there: move it", use, tmp_path)
    assert (tmp_path / "target").read_text() == "mine"


def test_a_workdir_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        refuses(f"cannot write to --workdir={workdir}", run_directory.prepare_workdir, workdir)
    refuses("File name too long", run_directory.prepare_workdir, tmp_path / ("n" * 300))
    refuses("embedded null", run_directory.prepare_workdir, tmp_path / "\0")
    for name in ("[a]", "a*", "a?", "a\\b", "a\udcff"):
        refuses("can't stand in a path; rename it", run_directory.prepare_workdir, tmp_path / name)
    run_directory.prepare_workdir(tmp_path / "a, $x^$ {b}")


@pytest.fixture(scope="module")
def exported():
    """A model to export."""
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good")
    learned = BertWordPieceTokenizer({word: i for i, word in enumerate(words)})
    model, params = golden.load("bert")
    return Export(model.config, params, Tokenizer.from_str(learned.to_str()), card="# a film")


@pytest.fixture(scope="module")
def written(tmp_path_factory, swept, exported):
    """What Python, a cross-validation, a sweep and an export have written, in one folder."""
    root = tmp_path_factory.mktemp("written")
    rows = [f"a {('bad', 'good')[i % 2]} film, number {i}" for i in range(60)]
    table = (rows, [0, 1] * 30)
    quick = {**runs.ONE_SHAPE, "epochs": 1, "checkpoint_every": 3}  # two checkpoints of each
    whole = quick | {"data.limit": 0, "data.test_limit": 0}
    sentiment_jax.train(runs.make_small(**whole), root / "run", table, test=table)
    train(runs.make_small(**quick, **{"data.folds": 2}), root / "cv")
    evaluate_split([root / "cv"], "test")
    shutil.copytree(swept.directory, root / "sweep")
    export_pretrained(root / "export", exported)
    return root


@pytest.fixture
def modes(written, exported, tmp_path):
    """Each mode that writes, as a function of where it is asked to write."""
    source = TextSource(file=write_csv(tmp_path / "in.csv", [("good", "1")]))
    run = written / "run"
    config = runs.make_small()
    return {
        "predict": lambda path: predict_runs([run], source, path),
        "evaluate": lambda path: evaluate_file([run], source, path),
        "explain": lambda path: explain_run(run, source, path),
        "export": lambda path: export_pretrained(path, exported),
        "report": lambda path: report([run], path),
        "train": lambda path: train(config, path),
        "pretrain": lambda path: pretrain(config, path),
        "fresh": lambda path: train(config, path, fresh=True),
        "python": lambda path: sentiment_jax.train(config, path, (["good", "bad"], [1, 0])),
        "sweep": lambda path: sweep(config, path, ONE_TRIAL),
    }


@pytest.mark.parametrize(("begun", "kept"), [(False, "old"), (True, "new")])
def test_texts_are_put_back_only_while_no_new_run_has_begun(tmp_path, begun, kept):
    run = RunDirectory(tmp_path)
    run.reviews["train"].write_text("old")
    run.set_aside(run.reviews["train"])
    run.reviews["train"].write_text("new")
    if begun:
        run.removed.touch()
    run.put_back_reviews()
    assert run.reviews["train"].read_text() == kept


def test_no_mode_writes_where_a_run_a_sweep_or_an_export_does(written, modes, tmp_path):
    """By whatever path; the names are those that were in fact written."""
    before = runs.contents_without_lock(written)
    folders = ("checkpoints", "folds", "1", "final")  # beside them, and in a trial, others may be
    paths = [path for path in written.rglob("*") if path.is_file() or path.name in folders]
    names = {path.name for path in paths}
    assert {"reviews.csv", "reviews-test.csv", "predictions-val.csv", "log.txt", "lock"} <= names
    assert {"table.csv", "sweep.json", "model.safetensors", "failed.json", "MANIFEST.json"} <= names
    (tmp_path / "link").symlink_to(written)
    spellings = [
        lambda inside: written / inside,
        lambda inside: tmp_path / "link" / inside,
        lambda inside: Path(os.path.relpath(written / inside)),
        lambda inside: written / "new" / ".." / inside,
        lambda inside: written / inside / "x.csv",
    ]
    tried = itertools.product(enumerate(paths), enumerate(modes.values()))
    asked = 0
    for (i, path), (j, write) in tried:  # each mode by each spelling
        inside = path.relative_to(written)
        of_a_run = inside.parts[0] in ("run", "cv")  # else it may be no file to replace, too
        spell = spellings[(i + j) % len(spellings)]
        refuses("belongs to the run" if of_a_run else "", write, spell(inside))
        asked += of_a_run
    assert asked > 900
    assert runs.contents_without_lock(written) == before


def test_a_link_to_a_runs_own_file_is_no_output_and_a_hard_link_is_replaced(
    written, modes, tmp_path
):
    before = runs.contents_without_lock(written)
    for name in ("run/reviews.csv", "run/folds.deleted", "cv/Reviews.CSV", "sweep/final/x"):
        link = tmp_path / f"{name.replace('/', '-')}.csv"
        link.symlink_to(written / name)
        for mode in ("predict", "evaluate", "export", "report", "train"):
            refuses("belongs to the run, sweep or export in", modes[mode], link)
    (tmp_path / "hard.csv").hardlink_to(written / "run" / "reviews.csv")
    modes["predict"](tmp_path / "hard.csv")
    assert runs.contents_without_lock(written) == before


@pytest.mark.parametrize("mode", ["train", "fresh", "pretrain", "python", "sweep"])
def test_nothing_begins_in_the_directory_of_a_run(written, modes, mode):
    before = runs.contents_without_lock(written)
    trial = next((written / "sweep").glob("*/env.json")).parent
    places = ["run/mine", "cv/folds/mine", "cv/folds/3", "cv/folds/1", "cv/folds/1/mine"]
    for name in (*places, "run/checkpoints/5", "sweep/final/mine", trial / "a" / "b"):
        refuses("belongs to the run", modes[mode], written / name)
    assert runs.contents_without_lock(written) == before


def test_other_names_in_a_runs_directory_are_free(written, modes, tmp_path):
    """And the names of a run are free elsewhere, also beside another program's config.json."""
    root = shutil.copytree(written, tmp_path / "copy")
    (tmp_path / "config.json").write_text("{}")
    winner = next((root / "sweep" / "final").glob("*/env.json")).parent
    for name in (root / "run" / "scored.csv", root / "sweep" / "new" / "a.tsv", winner / "a.jsonl"):
        modes["predict"](name)
        assert name.is_file()
    for path in (winner / "explanation.html", tmp_path / "reviews.html"):
        modes["explain"](path)
        assert path.is_file()
    modes["predict"](tmp_path / "reviews.csv")
    modes["export"](root / "run" / "hub")
    modes["report"](root / "run")
    assert load_run(root / "run").step and load_run(winner).step


def test_a_lock_that_another_process_removed_meanwhile_is_not_the_one_that_is_held(
    tmp_path, monkeypatch
):
    """The other one is refused, and tidies, between the opening and the locking here."""
    directory = tmp_path / "run"
    directory.mkdir()
    flock = fcntl.flock

    def late(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        with pytest.raises(ValueError), lock_run(directory):
            raise ValueError
        assert not directory.exists()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with lock_run(directory):
        assert (directory / "lock").exists()
        with pytest.raises(InUse), tidied(directory), lock_run(directory):
            pass
        assert (directory / "lock").exists(), "what failed takes nobody's lock away"
