"""Multi-label classification: loss, thresholds and metrics beside scikit-learn and PyTorch."""

import functools
import warnings

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics as reference
from sklearn.utils.class_weight import compute_sample_weight

from sentiment_jax.data.kinds import MultiLabel
from sentiment_jax.data.labels import apply_temperature
from sentiment_jax.models.outputs import SIGMOIDS, binary_cross_entropy
from sentiment_jax.training.metrics import fit_temperature, measure, score_probabilities
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.steps import create_state, make_train_step
from sentiment_jax.training.tasks.multi_label import fit

NAMES = ("price", "quality", "shipping", "size")


def draw(count=200, seed=0, shares=(0.5, 0.3, 0.2, 0.1), digits=3):
    """Labels, and probabilities that say something about them, with ties."""
    rng = np.random.default_rng(seed)
    labels = rng.random((count, 4)) < shares
    p = scipy.special.expit(rng.normal(size=labels.shape) + 2 * labels - 1)
    return labels, np.float32(np.round(p, digits))


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed):
    labels, p = draw(seed=seed)
    thresholds = [0.5, 0.4, 0.3, 0.6]
    predicted = p > np.array(thresholds)
    found = measure(MultiLabel(), labels, p, NAMES, thresholds)
    for name, average in (("micro_f1", "micro"), ("macro_f1", "macro")):
        expected = reference.f1_score(labels, predicted, average=average)
        assert found[name] == pytest.approx(expected, abs=1e-12)
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, p), abs=1e-6)
    columns = [*zip(labels.T, predicted.T, p.T, strict=True)]
    mcc = np.mean([reference.matthews_corrcoef(true, made) for true, made, _ in columns])
    assert found["mcc"] == pytest.approx(mcc)
    loss = np.mean([reference.log_loss(true, p) for true, _, p in columns])
    assert found["log_loss"] == pytest.approx(loss, abs=1e-6)
    brier = np.mean([reference.brier_score_loss(true, p) for true, _, p in columns])
    assert found["brier_score"] == pytest.approx(brier, abs=1e-6)
    for name, (true, made, p_label) in zip(NAMES, columns, strict=True):
        precision, recall, f1, _ = reference.precision_recall_fscore_support(
            true, made, average="binary"
        )
        ap = reference.average_precision_score(true, p_label)
        expected = {"precision": precision, "recall": recall, "f1": f1, "average_precision": ap}
        expected["examples"] = true.sum()
        assert found["classes"][name] == pytest.approx(expected)
    scores = score_probabilities(MultiLabel(), labels, p, thresholds)
    assert scores["accuracy"] == reference.accuracy_score(labels, predicted)  # exact matches
    assert scores["macro_f1"] == found["macro_f1"]
    sets = [tuple(row) for row in labels.tolist()]
    assert found["majority_baseline"] == max(map(sets.count, sets)) / len(sets)


def test_a_label_that_no_text_has_is_worth_nothing_and_breaks_nothing():
    labels, p = draw(shares=(0.5, 0.3, 0.2, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = measure(MultiLabel(), labels, p, NAMES, [0.5] * 4)
    assert found["classes"]["size"]["average_precision"] is None and found["auc"] is None
    expected = reference.f1_score(labels, p > 0.5, average="macro", zero_division=0)
    assert found["macro_f1"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_a_threshold_has_the_best_f1_of_all(seed):
    labels, p = draw(seed=seed)
    thresholds = fit(labels, p)["thresholds"]
    for true, p_label, threshold in zip(labels.T, p.T, thresholds, strict=True):
        _, _, tried = reference.precision_recall_curve(true, p_label)
        best = max(reference.f1_score(true, p_label >= t, zero_division=0) for t in tried)
        assert reference.f1_score(true, p_label > threshold) == pytest.approx(best)
        assert threshold not in p_label  # halfway between two: rounding changes no prediction


def test_few_texts_with_a_label_or_without_it_choose_no_threshold():
    labels, p = draw()
    few = np.zeros((200, 4), bool)
    few[:, 0] = True
    few[:9, 1] = True
    few[:10, 2] = True
    few[9:, 3] = True
    thresholds = fit(few, p)["thresholds"]
    assert [threshold == 0.5 for threshold in thresholds] == [True, True, False, True]


def test_each_label_has_the_temperature_that_fits_it_and_calibration_keeps_predictions():
    labels, p = draw(seed=4, digits=6)
    found = fit(labels, p)
    for true, p_label, temperature in zip(labels.T, p.T, found["temperature"], strict=True):
        of_two = np.stack([1 - p_label, p_label], axis=1)
        assert temperature == fit_temperature(of_two, np.stack([~true, true], axis=1))
    softened = apply_temperature(p, found["temperature"])
    odds = scipy.special.logit(p.astype(float)) / found["temperature"]
    np.testing.assert_allclose(softened, scipy.special.expit(odds), atol=1e-6)
    (thresholds,) = apply_temperature(np.array([found["thresholds"]]), found["temperature"])
    np.testing.assert_array_equal(softened > thresholds, p > np.array(found["thresholds"]))


def test_the_loss_is_the_mean_binary_cross_entropy_with_scikit_learns_weights():
    labels, _ = draw()
    logits = np.random.default_rng(1).normal(size=labels.shape).astype(np.float32)
    p = scipy.special.expit(logits.astype(float))
    own = SIGMOIDS.balanced_weights(labels)
    losses = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels), own)
    weights = [compute_sample_weight("balanced", true) for true in labels.T]
    columns = zip(labels.T, p.T, weights, strict=True)
    each = [w * -np.log(np.where(true > 0, p, 1 - p)) for true, p, w in columns]
    np.testing.assert_allclose(losses, np.mean(each, axis=0), rtol=1e-5)
    plain = binary_cross_entropy(jnp.asarray(logits), jnp.asarray(labels))
    assert np.mean(plain) == pytest.approx(reference.log_loss(labels.ravel(), p.ravel()), abs=1e-6)
    wrong = binary_cross_entropy(jnp.array([[200.0, -200.0]]), jnp.array([[False, True]]))
    assert wrong == pytest.approx(200)


def test_three_steps_are_those_of_pytorch():
    """Transformers' problem_type=multi_label_classification, float32, Adam, no dropout."""
    model, params = golden.load("bert", hidden_dropout=0.0, attention_dropout=0.0)
    with np.load(golden.FIXTURES / "bert" / "several.npz") as arrays:
        expected = dict(arrays)
    batch = golden.read("bert") | {"labels": jnp.asarray(expected["labels"] > 0)}
    batch = {name: batch[name] for name in ("token_ids", "lengths", "labels")}
    batch["weights"] = jnp.ones(len(expected["labels"]))
    optimizer = golden.plain_optimizer(name="adam")
    step = make_train_step(model, optimizer, Classification(output=SIGMOIDS))
    state = create_state(params, optimizer, 0)
    losses = []
    for _ in range(3):
        state, sums = step(state, batch, np.float32(1e-3))
        losses.append(float(sums["loss"] / sums["examples"]))
    np.testing.assert_allclose(losses, expected["losses"], atol=1e-5)
    logits = golden.logits(model, state.params, batch)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4)
    assert np.abs(expected["losses"][0] - losses[2]) > 0.3  # a step that moves nothing would pass


def test_a_text_is_correct_in_training_if_all_its_labels_are():
    labels = jnp.array([[True, False], [True, False]])
    _, correct = SIGMOIDS.score(jnp.array([[1.0, -1.0], [1.0, 1.0]]), {"labels": labels})
    assert correct.tolist() == [True, False]


def test_a_row_of_padding_counts_for_nothing():
    batch = {
        "token_ids": jnp.ones((2, 4), jnp.int32),
        "lengths": jnp.full(2, 4, jnp.int32),
        "labels": jnp.array([[True, False], [False, True]]),
        "weights": jnp.array([1.0, 0.0]),
    }
    model, params = golden.load("bert")
    params = jax.tree.map(jnp.asarray, params)
    key = jax.random.key(0)
    score = jax.jit(functools.partial(Classification(output=SIGMOIDS), model, deterministic=True))
    sums = score(params, batch, key)
    alone = {name: value[:1] for name, value in batch.items()}
    expected = score(params, alone, key)
    assert sums["examples"] == 1
    np.testing.assert_allclose(sums["loss"], expected["loss"], rtol=1e-5)
    soft = alone | {"targets": jnp.array([[0.8, 0.3]])}
    found = score(params, soft, key)["loss"]
    p = scipy.special.expit(np.float64(golden.logits(model, params, alone)[0]))
    loss = -np.mean([0.8, 0.3] * np.log(p) + [0.2, 0.7] * np.log(1 - p))
    assert found == pytest.approx(loss, abs=1e-5)
