"""Verdicts that stand for missing labels: the teachers' own, kept, and learned from."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import runs

from sentiment_jax.config.recipes import override
from sentiment_jax.config.schema import DataConfig, LossConfig
from sentiment_jax.config.validation import validate
from sentiment_jax.data import batches
from sentiment_jax.data.unlabeled import unlabeled_reviews
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.modes.evaluate import evaluate_run
from sentiment_jax.modes.predict import predict
from sentiment_jax.modes.train import train
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import distillation
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.distillation import distill
from sentiment_jax.training.experiment import prepare_experiment
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import cross_entropy, forward
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import load_ensemble


@pytest.fixture
def config(small_config, finished, tmp_path):
    """A student of two teachers, the same run twice, and the 24 of 200 reviews within its limit."""
    text = tmp_path / "more.txt"
    text.write_text(
        "\n".join(f"{'the film ' * (i % 9)} it was {'good ' * (i % 7)} {i}" for i in range(200))
    )
    taught = {"data.unlabeled": True, "data.teacher": f"{finished},{finished}"}
    return override(
        small_config, {"pretrain.text": str(text), "data.cache": str(tmp_path), **taught}
    )


def read_reviews(config):
    prepared = prepare_experiment(resolve(config))
    data = DataConfig(**config.data.to_dict())
    return prepared, unlabeled_reviews(data, config.pretrain.text)


def test_a_review_without_label_gets_the_mean_verdict(config, finished):
    trained = load_ensemble([finished, finished])
    prepared, reviews = read_reviews(config)
    before, train = prepared.encoded["train"], distill(prepared, Stop()).encoded["train"]
    assert len(reviews) == 24 and (before.labels[-24:] == -1).all() and before.targets is None
    np.testing.assert_array_equal(train.labels[:-24], before.labels[:-24])
    np.testing.assert_array_equal(train.targets[:-24], np.eye(2)[before.labels[:-24]])
    expected, _ = predict([trained], reviews.texts)
    np.testing.assert_allclose(train.targets[-24:], expected, rtol=1e-6)
    np.testing.assert_array_equal(train.labels[-24:], expected.argmax(axis=1))
    assert len(np.unique(expected)) > 20  # no constant verdict


def test_the_mean_is_of_all_teachers(config, finished, monkeypatch):
    prepared, _ = read_reviews(config)
    verdicts = iter([[0.9, 0.1], [0.4, 0.6]])
    monkeypatch.setattr(teaching, "_judge", lambda *_: np.full((24, 2), next(verdicts), np.float32))
    train = distill(prepared, Stop()).encoded["train"]
    np.testing.assert_allclose(train.targets[-24:], np.full((24, 2), [0.65, 0.35]), rtol=1e-6)
    assert (train.labels[-24:] == 0).all()


def test_verdicts_are_kept_for_the_same_teacher_and_texts_alone(config, finished, monkeypatch):
    prepared, _ = read_reviews(config)
    first, judged = distill(prepared, Stop()), []
    score = distillation.score_reviews

    def count(run, params, encoded, *rest, **options):
        judged.append(len(encoded))
        return score(run, params, encoded, *rest, **options)

    monkeypatch.setattr(teaching, "score_reviews", count)
    again = distill(prepared, Stop())
    assert not judged and first.statistics == again.statistics
    np.testing.assert_array_equal(again.encoded["train"].targets, first.encoded["train"].targets)
    other = load_ensemble([finished])
    changed = jax.tree.map(lambda leaf: 2 * leaf, other.params)
    monkeypatch.setattr(
        teaching, "load_ensemble", lambda runs: dataclasses.replace(other, params=changed)
    )
    assert distill(prepared, Stop()).statistics != first.statistics
    assert judged == [24]
    monkeypatch.setattr(teaching, "load_ensemble", load_ensemble)
    text = Path(config.pretrain.text)
    text.write_text(text.read_text().replace("good", "bad"))
    with pytest.raises(InputError, match="the reviews without labels changed meanwhile"):
        distill(prepared, Stop())
    distill(read_reviews(config)[0], Stop())
    assert judged == [24, 24]


def test_the_cross_entropy_is_with_the_targets(config, finished):
    prepared, _ = read_reviews(config)
    encoded = distill(prepared, Stop()).encoded["train"]
    rows = np.arange(len(encoded) - 6, len(encoded))  # without labels
    planned = batches.PlannedBatch(np.concatenate([np.arange(3), rows]), 24)
    batch = jax.device_put(batches.make_batch(encoded, planned, 12))
    params = load_ensemble([finished]).params
    logits = forward(prepared.model, params, batch["token_ids"], batch["lengths"])
    sums = Classification()(prepared.model, params, batch, jax.random.key(0), deterministic=True)
    logs = np.asarray(jax.nn.log_softmax(logits), np.float64)[:9]
    targets = encoded.targets[planned.indices]
    assert ((targets > 0.01) & (targets < 0.99)).any()
    np.testing.assert_allclose(sums["loss"], -(logs * targets).sum(), rtol=1e-5)
    assert sums["examples"] == 9
    weighted = Classification((0.5, 2.0))(prepared.model, params, batch, jax.random.key(0), True)
    np.testing.assert_allclose(weighted["loss"], -(logs * targets * [0.5, 2]).sum(), rtol=1e-5)
    plain = np.asarray(cross_entropy(logits, batch["labels"]))
    np.testing.assert_allclose(plain[:3], -(logs * targets).sum(axis=1)[:3], rtol=1e-5)


@pytest.mark.parametrize("weights", [(), (0.5, 2.0)])
def test_a_verdict_that_tips_over_hardly_changes_the_loss(config, finished, weights):
    """Not even where words are moved in the worst direction: that of the targets, no label's."""
    prepared, _ = read_reviews(config)
    encoded = distill(prepared, Stop()).encoded["train"]
    params, losses = load_ensemble([finished]).params, []
    objective = Classification(weights, LossConfig(adversarial=0.5))
    for positive in (0.49, 0.51):
        row = dataclasses.replace(
            encoded,
            targets=np.full_like(encoded.targets, [1 - positive, positive]),
            labels=np.full_like(encoded.labels, positive > 0.5),
        )
        batch = batches.make_batch(row, batches.PlannedBatch(np.arange(4), 24), 4)
        sums = objective(prepared.model, params, jax.device_put(batch), jax.random.key(0), True)
        losses.append(float(sums["loss"]))
    assert abs(losses[1] - losses[0]) < 0.05 * losses[0]


@pytest.mark.slow
def test_a_student_resumes_bit_exactly_and_says_who_taught(config, finished, tmp_path, capsys):
    train(config, tmp_path / "alone")
    assert f"24 reviews without labels, judged by {finished}," in capsys.readouterr().out
    records = read_metrics(tmp_path / "alone" / "metrics.jsonl")
    assert sum(r["examples"] for r in records if r["split"] == "train") == 3 * (48 + 24)

    class Later(Stop):
        """Ends the run at its seventh question."""

        asks = 0

        def asked(self):
            self.asks += 1
            return self.asks == 7

    with pytest.raises(Interrupted, match="saved step"):
        train(config, tmp_path / "run", stop=Later())
    train(config, tmp_path / "run")
    runs.assert_same_run(tmp_path / "alone", tmp_path / "run")
    assert "not bit-exact" not in capsys.readouterr().err
    env = RunDirectory(tmp_path / "run").env
    assert read_json(env)["data"]["pseudo_labels_hash"]
    Path(config.pretrain.text).unlink()  # no evaluation needs it
    result = read_json(RunDirectory(tmp_path / "run").result)
    assert evaluate_run(tmp_path / "run", "val") == result["val"]
    assert evaluate_run(tmp_path / "run", "test") == result["test"]


@pytest.mark.slow
def test_other_verdicts_or_texts_on_resuming_are_said(config, tmp_path, monkeypatch, capsys):
    one = override(config, {"epochs": 1})
    train(one, tmp_path / "run")
    monkeypatch.setattr(teaching, "_judge", lambda *_: np.full((24, 2), 0.5, np.float32))
    text = Path(config.pretrain.text)
    before, changed = text.read_text(), text.read_text().replace("good", "bad")
    text.write_text(changed)
    with pytest.raises(InputError, match="the unlabeled texts changed since .* began"):
        train(config, tmp_path / "run", allow_changes=True)
    text.write_text(before)
    train(config, tmp_path / "run", allow_changes=True)
    expected = "warning: not bit-exact from here on: the teachers' verdicts have changed\n"
    assert expected in capsys.readouterr().err


def test_a_signal_ends_the_judging(config, tmp_path):
    prepared, _ = read_reviews(config)
    with Stop() as stop:
        stop.asked = lambda: True
        with pytest.raises(Interrupted, match="no step was taken"):
            distill(prepared, stop)


def test_teachers_that_cannot_teach(config, finished, plain, tmp_path):
    with pytest.raises(InputError, match=r"data\.teacher judges reviews without labels"):
        validate(override(config, {"data.unlabeled": False}))

    def refuse(reason, **changes):
        directory = RunDirectory(plain)
        changed = override(directory.read_config(), changes)
        directory.write_config(changed)
        with pytest.raises(InputError, match=reason):
            read_reviews(override(config, {"data.teacher": f"{finished},{plain}"}))

    refuse(f"{plain} tells bad, good, the labels are negative, pos", **{"data.labels": "bad,good"})
    refuse("is a pre-training, which judges", **{"pretrain.objective": "ngram_vectors"})
    RunDirectory(plain).result.unlink()
    refuse(f"data.teacher={plain} is not finished: let its training end")
    RunDirectory(plain).config.unlink()
    with pytest.raises(InputError, match=f"data.teacher={plain} is no run directory"):
        resolve(override(config, {"data.teacher": str(plain)}))
