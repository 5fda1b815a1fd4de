"""Held-out texts that an ancestor learned from: counted exactly, whatever is gone."""

import dataclasses
import shutil

import numpy as np
import pytest
import reviews
import runs

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import make_frozen, replace_settings
from sentiment_jax.data.dataset import load_dataset
from sentiment_jax.data.unlabeled import NOTHING, unlabeled_texts
from sentiment_jax.errors import InputError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.files import write_array, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.experiment import read_dataset
from sentiment_jax.training.lineage import (
    learned_text,
    short_hashes,
    warn_of_leakage,
    warn_of_training_texts,
)
from sentiment_jax.training.tasks.classification import CLASSIFICATION


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
def make_run(tmp_path):
    """A function that writes what a run keeps of its texts and returns its directory."""

    def make_run(name, data, **changes):
        config = make_config(data, **changes)
        text = read_dataset(config).splits["train"]
        unlabeled = unlabeled_texts(data, config.pretrain.text) if data.teacher else NOTHING
        labels = (NOTHING, text) if config.pretrain.objective else (text, unlabeled)
        run = RunDirectory(tmp_path / name)
        run.path.mkdir()
        env = {}
        for kind, hashes in learned_text(config, *labels).items():
            env |= write_array(run.learned[kind], hashes)
        write_json(run.env, env)
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


def leakage(run, data, *trained_on, without_labels=False):
    """The beginning of the warning that a run was trained on some texts held out here.

    In a cross-validation, text that was learned `without_labels` counts for the test alone.
    """
    texts = {name: {*split.texts} for name, split in load_dataset(data).splits.items()}
    held_out = (texts["val"] | texts["test"]) - texts["train"]
    counted = texts["test"] - texts["train"] if without_labels else held_out
    leaked = counted & {
        text for of in trained_on for text in load_dataset(of).splits["train"].texts
    }
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


@pytest.mark.parametrize("objective", ["", "masked_language_modeling"])
def test_what_was_learned_without_labels_does_not_count_in_a_fold(
    data, table, make_run, warned, capsys, objective
):
    run = make_run("run", data, **{"pretrain.objective": objective})
    now = table(30, 90)
    config = make_config(dataclasses.replace(now, folds=2), **{"model.pretrained": str(run)})
    warn_of_leakage(config, load_dataset(now))
    expected = leakage(run, now, data, without_labels=bool(objective))
    assert capsys.readouterr().err.startswith(expected)
    assert expected != leakage(run, now, data, without_labels=not objective)


def test_unlabeled_training_text_counts_too(data, table, tmp_path, make_run, warned, capsys):
    now = table(60, 120)
    texts = load_dataset(now).splits["test"].texts
    (text := tmp_path / "more.txt").write_text("\n".join(texts[:5]))
    distilled = dataclasses.replace(data, teacher=str(make_run("teacher", data)))
    run = make_run("run", distilled, **{"pretrain.text": str(text)})
    found = warned(now, **{"model.pretrained": str(run)})
    assert found.startswith(f"warning: {run} was trained on 5 of the 22 texts")
    warn_of_training_texts(run, load_dataset(now).splits["test"])
    assert f"{run} was trained on 5 of these" in capsys.readouterr().err


def test_what_ancestors_were_trained_on_counts_too(data, table, tmp_path, make_run, warned):
    """Sources and teachers, directly and through another run, which may be gone."""
    unrelated = table(60, 120)
    (text := tmp_path / "more.txt").write_text("One text.\nAnother text.")
    first = make_run("first", data)
    second = make_run("second", unrelated, **{"model.pretrained": str(first)})
    distilled = dataclasses.replace(unrelated, teacher=str(first))
    student = make_run("student", distilled, **{"pretrain.text": str(text)})
    third = make_run("third", unrelated, **{"model.pretrained": str(second)})
    now = table(30, 90)
    for setting in ("data.teacher", "model.pretrained"):
        assert warned(now, **{setting: str(first)}).startswith(leakage(first, now, data))
    shutil.rmtree(first)
    shutil.rmtree(second)
    for setting in ("data.teacher", "model.pretrained"):
        for run in (student, third):
            found = warned(now, **{setting: str(run)})
            assert found.startswith(leakage(run, now, data, unrelated)), (setting, run)
            assert found.count("warning") == 1
            assert not warned(table(200, 260), **{setting: str(run)})


def test_what_was_recorded_is_read_as_it_was(data, table, make_run, warned):
    """A damaged file is refused; a run that a revision without it wrote has none."""
    run = make_run("run", data)
    learned = RunDirectory(run).learned["labeled"]
    write_array(learned, np.load(learned)[1:])
    with pytest.raises(InputError, match=r"learned.npy is not what was written"):
        warned(table(30, 90), **{"model.pretrained": str(run)})
    write_json(RunDirectory(run).env, {})
    assert not warned(table(30, 90), **{"model.pretrained": str(run)})


def test_a_run_records_what_it_and_its_ancestors_learned_from(finished, data, tmp_path, capsys):
    first = shutil.copytree(finished, tmp_path / "first")
    changes = {"data.source": "csv", "data.path": data.path, "epochs": 1, "data.limit": 0}
    second, third = tmp_path / "second", tmp_path / "third"
    train(runs.make_small(**changes, **{"model.pretrained": str(first)}), second)
    shutil.rmtree(first)
    train(runs.make_small(**changes, **{"model.pretrained": str(second)}), third)
    assert "leakage" not in capsys.readouterr().err
    shutil.rmtree(second)
    own = load_dataset(data).splits["train"]
    theirs = load_dataset(RunDirectory(finished).read_config().data).splits["train"]
    expected = {*short_hashes(own).tolist(), *short_hashes(theirs).tolist()}
    learned = RunDirectory(third).learned
    assert np.load(learned["labeled"]).tolist() == sorted(expected)
    assert len(np.load(learned["unlabeled"])) == 0
    held_out = {"data.validation_fraction": 0.5}  # with the same seed of the split
    CLASSIFICATION.prepare(resolve(runs.make_small(**held_out, **{"model.pretrained": str(third)})))
    known = RunDirectory(finished).read_config().data
    expected = leakage(third, dataclasses.replace(known, validation_fraction=0.5), known)
    assert expected in capsys.readouterr().err
