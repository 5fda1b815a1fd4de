"""Rows that hold several texts give the loss and the gradients of a row for each."""

import functools

import golden
import jax
import numpy as np
import pytest
from pretrained import make_folder
from reviews import random_encoded

from configs import encoder
from sentiment_jax.config.recipes import override
from sentiment_jax.data import batches
from sentiment_jax.data.batches import PlannedBatch, make_batch
from sentiment_jax.modes.train import train
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.scoring import score_texts
from sentiment_jax.training.tasks.classification import CLASSIFICATION

SMALL = {
    **{"data.max_length": 40, "data.length_buckets": (), "model.pooling": "mean"},
    **{"model.dtype": "float32", "model.attention": "xla", "model.hidden_dropout": 0.0},
    **{"batch_size": 8, "epochs": 2, "min_steps": 0, "log_every": 1, "cpu_devices": 1},
    **{"linear_baseline": False, "optimizer.learning_rate": 3e-2},
}


POOLED = [("head", 1), ("first", 1), ("first", 2), ("mean", 1), ("mean", 2)]


@pytest.mark.parametrize(
    ("name", "pooling", "layers"),
    [
        *(("bert", *pooled) for pooled in POOLED),
        *(
            pytest.param(name, *pooled, marks=() if pooled == ("mean", 2) else pytest.mark.slow)
            for name in ("distilbert", "electra_projection", "roberta")
            for pooled in POOLED
        ),
    ],
)
def test_loss_and_gradients_equal_those_of_padded_rows(name, pooling, layers):
    """In evaluation, where rates of dropout do nothing."""
    model = golden.build(name, pooling=pooling, pooled_layers=layers)
    params = golden.random(model)
    encoded = random_encoded(9, longest=9, vocabulary=model.config.vocab_size, seed=3)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def compute(params, batch):
        sums = Classification()(model, params, batch, golden.key(0), deterministic=True)
        return sums["loss"], sums

    computed = []
    for rows in (0, 4):
        planned = PlannedBatch(np.arange(9), 16, rows)
        batch = make_batch(encoded, planned, 11)  # two reviews, and a row, are padding
        computed.append(compute(params, batch))
    ((padded_loss, padded), gradients), ((loss, packed), packed_gradients) = computed
    assert batch["token_ids"].shape == (4, 16)  # rather than 11 rows
    np.testing.assert_allclose(loss, padded_loss, rtol=1e-5)
    assert (packed["correct"], packed["examples"]) == (padded["correct"], 9)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6 * largest)
    jax.tree.map(compare, packed_gradients, gradients)


def make_padded(encoded, planned, batch_size):
    """The batch with a row for each text."""
    return make_batch(encoded, planned._replace(rows=0), batch_size)


@pytest.fixture
def table(tmp_path):
    """Texts of one to three sentences, some of them positive."""
    path = tmp_path / "reviews.csv"
    sentences = ("A dull film.", "I want my two hours back.", "A quiet, moving film.")
    rows = [" ".join(sentences[i % 3 : i % 3 + 1 + i // 3 % 3]) + f" {i}" for i in range(60)]
    lines = [f'"{text}",{"good" if "moving" in text else "bad"}' for text in rows]
    path.write_text("\n".join(["text,label", *lines]))
    return {"data.path": str(path)}


def test_a_run_on_packed_rows_takes_the_steps_of_a_padded_one(tmp_path, monkeypatch, table):
    """Its losses are those of batches that hold the same texts, a row for each."""
    changes = SMALL | table | {"model.pretrained": str(make_folder(tmp_path / "weights"))}
    losses = []
    for name in ("packed", "padded"):
        train(override(encoder.get_config(), changes), tmp_path / name)
        records = read_metrics(tmp_path / name / "metrics.jsonl")
        losses.append([record["loss"] for record in records])
        monkeypatch.setattr(batches, "make_batch", make_padded)
    assert len(losses[0]) > 8 and np.ptp(losses[0]) > 0.05
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_packed_rows_are_scored_as_padded_ones(tmp_path, table):
    changes = SMALL | table | {"model.pretrained": str(make_folder(tmp_path / "weights"))}
    scored = []
    for packing in (True, False):
        config = override(encoder.get_config(), changes | {"data.packing": packing})
        experiment = CLASSIFICATION.prepare(resolve(config))
        params = golden.random(experiment.model)
        found = score_texts(experiment, params, experiment.encoded["train"], "scoring")
        scored.append(found.probabilities)
    assert np.ptp(scored[0]) > 0.05
    np.testing.assert_allclose(scored[1], scored[0], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "packs"),
    [
        ("bert", {}, True),
        ("bert", {"gradient_accumulation": 2, "contrastive": 0.0}, False),
        ("modernbert", {}, False),
    ],
)
def test_rows_hold_one_review_where_several_are_not_supported(
    tmp_path, table, name, changes, packs
):
    folder = make_folder(tmp_path / "weights", name)
    changes = SMALL | table | {"model.pretrained": str(folder), **changes}
    config = override(encoder.get_config(), changes)
    assert CLASSIFICATION.prepare(resolve(config)).packs == packs
