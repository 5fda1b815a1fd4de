"""Temperatures: a known one is found again, no verdict changes, validation is never worse off."""

import numpy as np
import pytest

from sentiment_jax.training.calibration import apply_temperature, fit_temperature, log_loss


def draw(classes, reviews=20_000, seed=0):
    """Logits, and labels drawn from their softmax: of these the temperature is 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(reviews, classes))
    return logits, (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("known", [0.3, 1.0, 2.5, 6.0])
def test_a_known_temperature_is_recovered(classes, known):
    logits, labels = draw(classes)
    probabilities = softmax(known * logits)
    fitted = fit_temperature(probabilities, labels)
    assert fitted == pytest.approx(known, rel=0.03)
    calibrated = apply_temperature(probabilities, fitted)
    assert log_loss(calibrated, labels) <= log_loss(probabilities, labels)
    np.testing.assert_allclose(calibrated, softmax(known * logits / fitted), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.1, 0.7, 10.0])
def test_no_verdict_changes(temperature):
    logits, _ = draw(4)
    even = np.array([[0.5, 0.5, 0, 0], [0.5 - 2**-25, 0.5 + 2**-24, 0, 0]])
    probabilities = np.concatenate([softmax(50 * logits), even.astype(np.float32)])
    calibrated = apply_temperature(probabilities, temperature)
    assert np.all(calibrated.argmax(axis=1) == probabilities.argmax(axis=1))
    np.testing.assert_allclose(calibrated.sum(axis=1), 1)
    assert calibrated[-2, 0] == calibrated[-2, 1]
    np.testing.assert_allclose(apply_temperature(softmax(logits), 1.0), softmax(logits), rtol=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_the_loss_on_validation_is_never_worse_and_nothing_near_is_better(seed):
    """Few reviews, labels that the probabilities do not foretell, and rounding to 0."""
    rng = np.random.default_rng(seed)
    classes, reviews = int(rng.integers(2, 5)), int(rng.integers(1, 30))
    probabilities = softmax(10 ** rng.uniform(-2, 2.5) * rng.normal(size=(reviews, classes)))
    labels = rng.integers(0, classes, reviews).astype(np.int32)
    fitted = fit_temperature(probabilities, labels)
    losses = [
        log_loss(apply_temperature(probabilities, float(t)), labels)
        for t in (fitted, *np.clip((0.98 * fitted, 1.02 * fitted, 1.0), 0.1, 10))
    ]
    assert losses[0] <= min(losses) + 1e-9
    assert losses[0] <= log_loss(probabilities, labels) + 1e-12
