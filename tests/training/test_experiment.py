"""What a run that another one starts from may know: counted exactly, or said to be unknown."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import reviews

from configs import bert
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.data import imdb_tfds
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.unlabeled import load_text
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.lineage import warn_of_leakage


def write_table(path, first, last):
    rows = [(f"Review number {i}, good or bad.", f"Title {i}", i % 2) for i in range(first, last)]
    return reviews.write_csv(path, rows, ("text", "title", "label"))


@pytest.fixture
def data(tmp_path):
    """60 reviews; 12 are held out for the test and 10 for validation."""
    return DataConfig(source="csv", path=write_table(tmp_path / "own.csv", 0, 60))


def make_config(data, pretrained="", objective=""):
    config = bert.get_config("tiny")
    config.data.update(dataclasses.asdict(data))
    config.model.pretrained, config.pretrain.objective = str(pretrained), objective
    return config


def make_run(path, data, pretrained="", objective=""):
    """Write what stands of a run's reviews in its directory; return that and what it learned."""
    corpus = load_text(data) if objective else load_corpus(data)
    path.mkdir()
    config = make_config(data, pretrained, objective)
    RunDirectory(path).write_config(config)
    write_json(RunDirectory(path).env, {"data": corpus.statistics})
    return path, {*corpus.splits["train"].texts}


@pytest.fixture
def warned(capsys):
    """A function from a source run and data of today to the warning."""

    def warned(run, data):
        warn_of_leakage(make_config(data, run), load_corpus(data))
        return capsys.readouterr().err

    return warned


@pytest.mark.parametrize("objective", ["", "masked_language_modeling"])
def test_the_same_reviews_at_another_path_are_known_to_be_safe(data, tmp_path, objective, warned):
    run, _ = make_run(tmp_path / "run", data, objective=objective)
    moved = shutil.move(data.path, tmp_path / "moved.csv")
    assert not warned(run, dataclasses.replace(data, path=str(moved)))


CHANGES = {
    "another table": ({"path": (30, 90)}, True),
    "what it trains on too": ({"test_path": (30, 90)}, False),
    "the test set now": ({"path": (60, 120), "test_path": (0, 60)}, True),
    "another seed": ({"split_seed": 1}, True),
    "fewer reviews": ({"limit": 20}, True),
    "nothing shared": ({"path": (60, 120)}, False),
    "another column": ({"text_column": "title"}, False),
}


@pytest.mark.parametrize("objective", ["", "masked_language_modeling"])
@pytest.mark.parametrize("change", CHANGES)
def test_what_it_learned_of_the_held_out_reviews_is_counted(
    data, tmp_path, change, objective, warned
):
    run, learned = make_run(tmp_path / "run", data, objective=objective)
    changes, knows = CHANGES[change]
    for name in {*changes} & {"path", "test_path"}:
        changes = {**changes, name: write_table(tmp_path / f"{name}.csv", *changes[name])}
    data = dataclasses.replace(data, **changes)
    splits = load_corpus(data).splits
    held = {*splits["val"].texts, *splits["test"].texts} - {*splits["train"].texts}
    assert bool(held & learned) == knows
    expected = f"warning: {run} learned from {len(held & learned)} of the {len(held)} reviews that"
    found = warned(run, data)
    assert found.startswith(expected) if knows else not found


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (None, "cannot read the table .*own.csv: No such file or directory"),
        ((0, 61), "its own reviews have changed since"),
    ],
)
def test_what_it_learned_may_be_gone_or_changed(data, tmp_path, now, reason, warned):
    run, _ = make_run(tmp_path / "run", data)
    other = dataclasses.replace(data, path=write_table(tmp_path / "other.csv", 60, 120))
    Path(data.path).unlink()
    if now:
        write_table(data.path, *now)
    expected = f"warning: {run} may know reviews that are held out here: {reason}\n"
    assert re.fullmatch(expected, warned(run, other))


def test_what_it_learned_without_labels_counts_too(data, tmp_path, warned):
    other = dataclasses.replace(data, path=write_table(tmp_path / "other.csv", 60, 120))
    held = load_corpus(other).splits["test"].texts
    (text := tmp_path / "more.txt").write_text("\n".join(held[:5]))
    run, _ = make_run(tmp_path / "run", dataclasses.replace(data, unlabeled=True))
    directory = RunDirectory(run)
    config = directory.read_config()
    config.pretrain.text = str(text)
    directory.write_config(config)
    assert warned(run, other).startswith(f"warning: {run} learned from 5 of the 22 reviews that")
    recorded = {**load_corpus(data).statistics, "unlabeled_hash": "of other text"}
    write_json(directory.env, {"data": recorded})
    assert "here: its reviews without labels have changed since\n" in warned(run, other)


def test_what_a_teacher_learned_counts_too(data, tmp_path, capsys):
    run, learned = make_run(tmp_path / "run", data)
    other = DataConfig(source="csv", path=write_table(tmp_path / "other.csv", 30, 90))
    held = load_corpus(other).splits
    known = len(learned & {*held["val"].texts, *held["test"].texts})
    config = make_config(dataclasses.replace(other, unlabeled=True, teacher=str(run)))
    warn_of_leakage(config, load_corpus(other))
    assert capsys.readouterr().err.startswith(f"warning: {run} learned from {known} of the ")
    assert known
    student, _ = make_run(tmp_path / "student", other)
    RunDirectory(student).write_config(config)
    for names in ({"teacher": str(student), "unlabeled": True}, {}):
        pupil = make_config(dataclasses.replace(other, **names), "" if names else student)
        terminal.warn_once.cache_clear()
        warn_of_leakage(pupil, load_corpus(other))
        assert capsys.readouterr().err.startswith(f"warning: {run} learned from {known} of the ")
    shutil.rmtree(run)  # whatever it knew
    terminal.warn_once.cache_clear()
    warn_of_leakage(pupil, load_corpus(other))
    assert f"{run} may know reviews that are held out here: cannot read" in capsys.readouterr().err


def test_imdb_is_not_downloaded_for_a_comparison(data, tmp_path, warned, monkeypatch):
    run, _ = make_run(tmp_path / "run", data)
    directory = RunDirectory(run)
    absent = make_config(DataConfig(source="tfds", path=str(tmp_path / "absent")))
    directory.write_config(absent)
    monkeypatch.setattr(imdb_tfds, "prepare", pytest.fail)
    other = dataclasses.replace(data, split_seed=1)
    assert "may know reviews that are held out here: IMDB" in warned(run, other)


def test_what_its_own_source_learned_counts_too(data, tmp_path, warned):
    first, _ = make_run(tmp_path / "first", data, pretrained=tmp_path / "second")  # in a circle
    other = dataclasses.replace(data, path=write_table(tmp_path / "other.csv", 60, 120))
    second, _ = make_run(tmp_path / "second", other, pretrained=first)
    found = warned(second, dataclasses.replace(data, split_seed=1))
    assert found.count("\n") == 1 and found.startswith(f"warning: {first} learned from ")
