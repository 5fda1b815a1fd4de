"""Distillation: teachers label the unlabeled text; a student learns from their predictions."""

import functools
import shutil
from pathlib import Path
from unittest.mock import Mock

import golden
import jax
import numpy as np
import pytest
import runs
import scipy.special
from reviews import random_encoded, refuses

from sentiment_jax.config.recipes import override
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data import batches
from sentiment_jax.data.texts import Texts
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.modes.evaluate import evaluate_split
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import distillation
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.distillation import label_with_teachers
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.classification import CLASSIFICATION
from sentiment_jax.training.trained_model import load_run


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A second run, with other parameters than `finished`."""
    workdir = tmp_path_factory.mktemp("other")
    train(runs.make_small(seed=6), workdir)
    return workdir


@pytest.fixture
def config(finished, other, tmp_path, monkeypatch):
    """A student of two teachers, the second one a copy, and 24 texts, some of them cut."""
    second = shutil.copytree(other, tmp_path / "second")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "more.txt"
    texts = [f"{'the film ' * (i % 12)} it was {'good ' * (i % 7)} {i}" for i in range(24)]
    text.write_text("\n".join(texts))
    changes = {"pretrain.text": str(text), "data.teacher": f"{finished},{second}"}
    return runs.make_small(**runs.ONE_SHAPE, **changes)


def prepare(config):
    return CLASSIFICATION.prepare(resolve(config))


def change_text(config):
    text = Path(config.pretrain.text)
    text.write_text(text.read_text().replace("good", "bad"))


def test_an_unlabeled_text_gets_the_average_of_the_teachers_probabilities(config, model, other):
    prepared = prepare(config)
    before = prepared.encoded["train"]
    labeled = prepared.texts["train"]
    labels = [*labeled.codes.tolist(), *[-1] * 24]
    unlabeled = prepared.texts["unlabeled"]
    both = Texts.from_texts(labeled.texts + unlabeled.texts, labels, labeled.ids + unlabeled.ids)
    for name, expected in vars(prepared.encode(both)).items():
        np.testing.assert_array_equal(getattr(before, name), expected, name)
    assert prepared.encode(unlabeled).truncated and before.targets is None
    train = label_with_teachers(prepared, Stop()).encoded["train"]
    np.testing.assert_array_equal(train.labels[:-24], before.labels[:-24])
    np.testing.assert_array_equal(train.targets[:-24], before.labels[:-24])
    first, second = (predict([of], unlabeled.texts)[0] for of in (model, load_run(other)))
    expected = (first + second) / 2
    assert (first.argmax(axis=1) != second.argmax(axis=1)).any()
    np.testing.assert_allclose(train.targets[-24:], expected, rtol=1e-6)
    np.testing.assert_array_equal(train.labels[-24:].argmax(axis=1), expected.argmax(axis=1))
    assert len(np.unique(expected)) > 20


def test_predictions_are_cached_by_teacher_and_texts(
    config, finished, other, tmp_path, monkeypatch
):
    prepared = prepare(config)
    first = label_with_teachers(prepared, Stop()).encoded["train"]
    monkeypatch.setattr(distillation, "score_texts", lambda *_, **__: pytest.fail("predicted"))
    again = label_with_teachers(prepared, Stop()).encoded["train"]
    np.testing.assert_array_equal(again.targets, first.targets)
    change_text(config)
    with pytest.raises(pytest.fail.Exception, match="predicted"):
        label_with_teachers(prepare(config), Stop())
    shutil.rmtree(tmp_path / "second")
    shutil.copytree(finished, tmp_path / "second")  # other parameters under the same config
    RunDirectory(tmp_path / "second").write_config(RunDirectory(other).read_config())
    with pytest.raises(pytest.fail.Exception, match="predicted"):
        label_with_teachers(prepared, Stop())


def test_what_the_cache_lacks_or_cannot_keep_is_computed(config, tmp_path, monkeypatch):
    """A failed write leaves nothing behind, and the cache is no condition of a run."""
    prepared = prepare(config)
    first = label_with_teachers(prepared, Stop()).statistics
    file, kept = tmp_path.glob("cache/sentiment_jax/*.npz")
    whole = file.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :]
    for damaged in (b"", whole[:half], flipped):
        file.write_bytes(damaged)
        assert label_with_teachers(prepared, Stop()).statistics == first
        assert file.read_bytes() == whole
    file.unlink()
    error = OSError(28, "No space left on device")
    monkeypatch.setattr(np, "savez", Mock(side_effect=error))
    assert label_with_teachers(prepared, Stop()).statistics == first
    assert {path.name for path in file.parent.iterdir()} == {"xla", kept.name}
    monkeypatch.setenv("XDG_CACHE_HOME", __file__)  # no folder
    assert label_with_teachers(prepared, Stop()).statistics == first


@pytest.mark.parametrize("weights", [(), (0.5, 2.0)])
def test_the_cross_entropy_is_with_the_targets(model, weights):
    targets = np.random.default_rng(0).dirichlet((1, 1), size=9).astype(np.float32)
    encoded = random_encoded(9, longest=24, vocabulary=30, targets=targets)
    planned = batches.PlannedBatch(np.arange(9), 24)
    batch = jax.device_put(batches.make_batch(encoded, planned, 12))
    objective = functools.partial(Classification(weights), deterministic=True)
    sums = jax.jit(objective, static_argnums=0)(model.model, model.params, batch, jax.random.key(0))
    logits = np.asarray(golden.logits(model.model, model.params, batch), np.float64)[:9]
    expected = -(scipy.special.log_softmax(logits, axis=1) * targets * (weights or 1)).sum()
    np.testing.assert_allclose(sums["loss"], expected, rtol=1e-5)
    assert sums["examples"] == 9


@pytest.mark.slow
def test_a_student_resumes_bit_exactly_and_names_its_teachers(config, finished, tmp_path, capsys):
    train(config, tmp_path / "alone")
    assert f"24 unlabeled, labeled by {finished}," in capsys.readouterr().out
    records = read_metrics(tmp_path / "alone" / "metrics.jsonl")
    assert sum(r["examples"] for r in records if r["split"] == "train") == 3 * (48 + 24)
    with pytest.raises(Interrupted, match="saved step"):
        train(config, tmp_path / "run", stop=runs.stop_at(7))
    train(config, tmp_path / "run")
    runs.assert_same_run(tmp_path / "alone", tmp_path / "run")
    assert "not bit-exact" not in capsys.readouterr().err
    directory = RunDirectory(tmp_path / "run")
    assert read_json(directory.env)["data"]["pseudo_labels_hash"]
    learned = {kind: np.load(path) for kind, path in directory.learned.items()}
    assert [*map(len, learned.values())] == [48, 24]  # the teachers' are the student's
    Path(config.pretrain.text).unlink()  # no evaluation needs it
    result = read_json(directory.result)
    for split in ("val", "test"):
        assert evaluate_split([directory.path], split) == result[split]


def test_other_predictions_or_texts_on_resuming_are_noticed(config, tmp_path, monkeypatch, capsys):
    with pytest.raises(Interrupted, match="saved step"):
        train(config, tmp_path, stop=runs.stop_at(7))
    monkeypatch.setattr(distillation, "_predict", lambda *_: np.full((24, 2), 0.5, np.float32))
    with pytest.raises(Interrupted):
        train(config, tmp_path, stop=runs.stop_at(1))
    expected = "warning: not bit-exact from here on: the teachers' predictions have changed\n"
    assert expected in capsys.readouterr().err
    change_text(config)
    refuses("the unlabeled texts changed since .* began", train, config, tmp_path)


def test_a_signal_ends_the_labeling(config):
    prepared = prepare(config)
    with pytest.raises(Interrupted, match="no step was taken"):
        label_with_teachers(prepared, runs.stop_at(1))


@pytest.mark.parametrize(
    ("changes", "removed", "message"),
    [
        (
            {"data.labels": "bad,good"},
            [],
            "has the classes bad, good, the data have the classes neg.*, pos",
        ),
        ({"pretrain.objective": "ngram_vectors"}, [], "is a pre-training run, which has no"),
        ({}, ["result.json"], "is not finished: let its training end"),
        ({}, ["config.json"], "is no run directory"),
        ({"mcc": 0.0}, [], r"is no better than guessing on its own validation texts \(accuracy"),
    ],
)
def test_runs_that_cannot_be_teachers(config, finished, run_copy, changes, removed, message):
    directory = RunDirectory(run_copy)
    if "mcc" in changes:
        result = read_json(directory.result)
        result["metrics"]["val"] |= changes
        result["val"]["examples"] = 30
        write_json(directory.result, result)
    else:
        directory.write_config(replace_settings(directory.read_config(), changes))
    for name in removed:
        (run_copy / name).unlink()
    with pytest.raises(InputError, match=f"{run_copy} {message}"):
        prepare(override(config, {"data.teacher": f"{finished},{run_copy}"}))
