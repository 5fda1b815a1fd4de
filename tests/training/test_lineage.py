"""Held-out texts that an ancestor was trained on: counted exactly, or said to be unknown."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
import reviews
import runs

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import make_frozen, replace_settings
from sentiment_jax.data import imdb
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.unlabeled import load_text, unlabeled_texts
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import lineage
from sentiment_jax.training.lineage import warn_of_leakage
from sentiment_jax.training.trained_model import best_sha256


def write_table(path, first, last):
    rows = [(f"Text number {i}, good or bad.", f"Title {i}", i % 2) for i in range(first, last)]
    return reviews.write_csv(path, rows, ("text", "title", "label"))


@pytest.fixture
def table(tmp_path):
    """A function to the data of texts first to last; of 60, 22 are held out."""
    return lambda *ends: DataConfig("csv", write_table(tmp_path / f"{ends[0]}.csv", *ends))


@pytest.fixture
def data(table):
    return table(0, 60)


def make_config(data, **changes):
    config = make_frozen({"model.name": "bert", "model.hidden_size": 12})
    return replace_settings(dataclasses.replace(config, data=data), changes)


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A function that writes what a run keeps of its texts and returns its directory."""
    monkeypatch.setattr(lineage, "source_hashes", lambda config: [])  # there are no checkpoints

    def make_run(name, data, **changes):
        config = make_config(data, **changes)
        statistics = (load_text if config.pretrain.objective else load_dataset)(data).statistics
        if data.teacher:
            unlabeled = unlabeled_texts(data, config.pretrain.text)
            statistics = {**statistics, "unlabeled_hash": unlabeled.texts_hash}
        run = RunDirectory(tmp_path / name)
        run.path.mkdir()
        run.write_config(config)
        write_json(run.env, {"data": statistics, "sources": []})
        return run.path

    return make_run


@pytest.fixture
def warned(capsys):
    """A function from the data of today, and what a run learns from, to the warning."""

    def warned(data, **changes):
        terminal.warn_once.cache_clear()
        warn_of_leakage(make_config(data, **changes), load_dataset(data))
        return capsys.readouterr().err

    return warned


UNKNOWN = "may have been trained on texts that are held out here"


def leakage(run, data, trained_on):
    """The beginning of the warning that a run was trained on some texts held out here."""
    texts = {name: {*split.texts} for name, split in load_dataset(data).splits.items()}
    held_out = (texts["val"] | texts["test"]) - texts["train"]
    leaked = held_out & {*load_dataset(trained_on).splits["train"].texts}
    assert leaked
    return f"warning: {run} was trained on {len(leaked)} of the {len(held_out)} texts that are"


@pytest.mark.parametrize("objective", ["", "masked_language_modeling"])
@pytest.mark.parametrize(
    ("changes", "leaks"),
    [
        ({"path": (0, 60)}, False),  # the same reviews, elsewhere
        ({"path": (30, 90)}, True),
        ({"test_path": (30, 90)}, False),  # shared reviews are in the training split too
        ({"path": (60, 120), "test_path": (0, 60)}, True),
        ({"split_seed": 1}, True),
        ({"limit": 20}, True),
        ({"path": (60, 120)}, False),
        ({"text_column": "title"}, False),
    ],
)
def test_reviews_trained_on_are_counted(
    data, tmp_path, make_run, changes, leaks, objective, warned
):
    run = make_run("run", data, **{"pretrain.objective": objective})
    for name in {*changes} & {"path", "test_path"}:
        changes = {**changes, name: write_table(tmp_path / f"{name}.csv", *changes[name])}
    now = dataclasses.replace(data, **changes)
    found = warned(now, **{"model.pretrained": str(run)})
    assert found.startswith(leakage(run, now, data)) if leaks else not found


IMDB = DataConfig(source="tfds", path="/nowhere")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda data, run: Path(data.path).unlink(), "cannot read the table .*0.csv: No such file"),
        (lambda data, run: write_table(data.path, 0, 61), "its own texts have changed since\n"),
        (lambda data, run: run.write_config(make_config(IMDB)), "IMDB, which .* is not here to"),
    ],
    ids=["gone", "changed", "not downloaded for a comparison"],
)
def test_training_reviews_may_be_gone(data, table, make_run, harm, reason, warned, monkeypatch):
    monkeypatch.setattr(imdb, "prepare", pytest.fail)
    run = make_run("run", data)
    harm(data, RunDirectory(run))
    found = warned(table(60, 120), **{"model.pretrained": str(run)})
    assert re.match(f"warning: {run} {UNKNOWN}: {reason}", found)


@pytest.mark.parametrize("changed", [False, True])
def test_unlabeled_training_text_counts_too(data, table, tmp_path, make_run, warned, changed):
    now = table(60, 120)
    texts = load_dataset(now).splits["test"].texts
    (text := tmp_path / "more.txt").write_text("\n".join(texts[:5]))
    distilled = dataclasses.replace(data, teacher=str(make_run("teacher", data)))
    run = make_run("run", distilled, **{"pretrain.text": str(text)})
    expected = f"{run} was trained on 5 of the 22 texts"
    if changed:
        text.write_text("\n".join(texts[5:]))
        expected = f"{run} {UNKNOWN}: its unlabeled"
    assert warned(now, **{"model.pretrained": str(run)}).startswith(f"warning: {expected}")


def test_what_ancestors_were_trained_on_counts_too(data, table, tmp_path, make_run, warned):
    """Sources and teachers, directly and through another run; a circle ends."""
    unrelated = table(60, 120)
    (text := tmp_path / "more.txt").write_text("One text.\nAnother text.")
    first = make_run("first", data, **{"model.pretrained": str(tmp_path / "second")})
    second = make_run("second", unrelated, **{"model.pretrained": str(first)})
    distilled = dataclasses.replace(unrelated, teacher=str(first))
    student = make_run("student", distilled, **{"pretrain.text": str(text)})
    now = table(30, 90)
    for setting in ("data.teacher", "model.pretrained"):
        for run in (first, second, student):
            found = warned(now, **{setting: str(run)})
            assert leakage(first, now, data) in found, (setting, run)
            assert found.count(str(first)) == 1
    shutil.rmtree(first)  # whatever it was trained on
    assert f"{first} {UNKNOWN}: cannot read" in warned(now, **{"data.teacher": str(student)})


def test_an_ancestor_that_was_replaced_is_not_compared(
    table, finished, make_run, warned, monkeypatch
):
    """Its texts would be compared in place of those that the student descends from."""
    student = make_run("student", table(60, 120), **{"model.pretrained": str(finished)})
    monkeypatch.undo()
    env = RunDirectory(student).env
    for digest, unknown in ((best_sha256(finished), False), ("0" * 64, True)):
        runs.change_json(env, sources=[digest])
        found = warned(table(200, 260), **{"model.pretrained": str(student)})
        assert ("student learned from other parameters than those in" in found) == unknown
