"""Temperatures: a known one is found again, no prediction changes, validation never gets worse."""

import numpy as np
import pytest
import scipy.special

from sentiment_jax.training.metrics import apply_temperature, fit_temperature, log_loss


def softmax(logits):
    return scipy.special.softmax(logits, axis=1).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("known", [0.3, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_recovered(classes, known):
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(20_000, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    fitted = fit_temperature(softmax(known * logits), labels)  # the labels follow softmax(logits)
    assert fitted == pytest.approx(known, rel=0.03)
    calibrated = apply_temperature(softmax(known * logits), fitted)
    np.testing.assert_allclose(calibrated, softmax(known * logits / fitted), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 10.0])
def test_no_prediction_changes(temperature):
    logits = 100 * np.random.default_rng(0).normal(size=(20_000, 4))
    even = np.array([[0.5, 0.5, 0, 0], [0.5 - 2**-25, 0.5 + 2**-24, 0, 0]])
    probabilities = np.concatenate([softmax(logits), even.astype(np.float32)])
    calibrated = apply_temperature(probabilities, temperature)
    assert np.all(calibrated.argmax(axis=1) == probabilities.argmax(axis=1))
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    assert calibrated[-2, 0] == calibrated[-2, 1]
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities)


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_on_validation_never_gets_worse_and_no_temperature_nearby_is_better(seed):
    """Few reviews, labels that the probabilities do not predict, and rounding to 0."""
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(2, 5))
    reviews = int(rng.integers(1, 30))
    probabilities = softmax(10 ** rng.uniform(-2, 2.5) * rng.normal(size=(reviews, classes)))
    labels = rng.integers(0, classes, reviews).astype(np.int32)
    fitted = fit_temperature(probabilities, labels)
    least = log_loss(apply_temperature(probabilities, fitted), labels)
    assert least <= log_loss(probabilities, labels) + 1e-12
    for near in np.clip((0.98 * fitted, 1.02 * fitted), 0.1, 10):
        assert least <= log_loss(apply_temperature(probabilities, float(near)), labels) + 1e-9
