import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sentiment_jax.config.schema import LossConfig, LstmConfig
from sentiment_jax.models.lstm import LstmClassifier
from sentiment_jax.training import regularizers
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.objectives.objective import cross_entropy

ROWS, LENGTH, WIDTH = 3, 2, 4
RNG = np.random.default_rng(0)
EMBEDDED, INNER, OUTER = (
    jnp.asarray(RNG.normal(size=shape), jnp.float32)
    for shape in ((ROWS, LENGTH, WIDTH), (LENGTH * WIDTH, 5), (5, 3))
)
LABELS = jnp.array([0, 2, 1])
ZEROS = jnp.zeros_like(EMBEDDED)


def classify(scale=1.0, perturbation=None):
    embedded = EMBEDDED if perturbation is None else EMBEDDED + perturbation
    return scale * jnp.tanh(embedded.reshape(ROWS, -1) @ INNER) @ OUTER


def log_softmax(logits):
    shifted = np.asarray(logits, np.float64)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def score(logits):
    return cross_entropy(logits, LABELS)


def losses(perturbation):
    return -log_softmax(classify(1.0, jnp.asarray(perturbation)))[np.arange(ROWS), LABELS]


def divergences(perturbation):
    own, other = log_softmax(classify()), log_softmax(classify(1.0, jnp.asarray(perturbation)))
    return (np.exp(own) * (own - other)).sum(1)


def steepest(function, at):
    """The direction of each row's gradient by central differences."""
    gradient = np.zeros((ROWS, LENGTH * WIDTH))
    for i in range(LENGTH * WIDTH):
        step = np.zeros((ROWS, LENGTH * WIDTH), np.float32)
        step[:, i] = 1e-2
        step = step.reshape(np.shape(at))
        gradient[:, i] = function(at + step) - function(at - step)
    return (gradient / np.linalg.norm(gradient, axis=1, keepdims=True)).reshape(np.shape(at))


def test_adversarial_step_is_the_steepest():
    worst = steepest(losses, np.zeros(np.shape(ZEROS), np.float32))
    found = regularizers.adversarial(classify, 1.0, score, ZEROS, 0.5)
    np.testing.assert_allclose(found, losses(0.5 * worst), rtol=1e-3)
    assert np.all(found > losses(np.zeros(np.shape(ZEROS), np.float32)))


def test_virtual_adversarial_step_is_a_power_iteration_by_finite_differences():
    key = jax.random.key(1)
    probe = regularizers.PROBE * regularizers.unit(jax.random.normal(key, ZEROS.shape))
    worst = steepest(divergences, np.asarray(probe))
    found = regularizers.virtual_adversarial(classify, 1.0, classify(), ZEROS, 0.5, key)
    np.testing.assert_allclose(found, divergences(0.5 * worst), rtol=2e-3)


def test_virtual_adversarial_loss_changes_the_model_where_it_was_moved_alone():
    """The distribution that should not move is taken as given."""

    def loss(scale, given):
        logits = given * classify()
        return jnp.sum(
            regularizers.virtual_adversarial(classify, scale, logits, ZEROS, 0.5, jax.random.key(1))
        )

    own, given = jax.grad(loss, argnums=(0, 1))(1.0, 1.0)
    assert own != 0
    assert given == 0


def test_entropy():
    own = log_softmax(classify())
    np.testing.assert_allclose(
        regularizers.entropy(classify()), -(np.exp(own) * own).sum(1), rtol=1e-5
    )


MODEL = LstmClassifier(LstmConfig(vocab_size=9, embedding_size=4, hidden_size=4, dense_size=4))
TOKENS = jnp.asarray(RNG.integers(1, 9, (4, 3)), jnp.int32)


def sums(rows, labels, **more):
    objective = Classification(regularizers=LossConfig(**more))
    batch = {
        "token_ids": TOKENS[:rows],
        "lengths": jnp.full(rows, 3),
        "labels": jnp.asarray(labels),
        "weights": jnp.ones(rows),
    }
    params = MODEL.init(jax.random.key(0), TOKENS, jnp.full(4, 3))["params"]
    found = objective(MODEL, params, batch, jax.random.key(1), deterministic=True)
    return {name: float(value) for name, value in found.items()}


def test_reviews_without_labels_count_in_the_regularizers_alone():
    assert sums(4, [0, 1, -1, -1]) == pytest.approx(sums(2, [0, 1]))
    assert 0 < sums(2, [-1, -1], entropy=0.5)["examples"] < 1e-5  # nothing is divided by 0
    plain, more = sums(4, [0, 1, -1, -1]), sums(4, [0, 1, -1, -1], entropy=0.5)
    both = sums(2, [0, 1], entropy=0.5)
    assert more["examples"] == plain["examples"] == 2
    # The mean over four rows, not over two: their verdicts are nearly even, so nearly log 2.
    assert more["loss"] - plain["loss"] == pytest.approx(np.log(2), abs=0.02)
    assert more["loss"] != pytest.approx(both["loss"], abs=1e-7)


@pytest.mark.parametrize("name", ["adversarial", "virtual_adversarial"])
def test_classifier_is_perturbed(name):
    plain, more = sums(4, [0, 1, 0, 1]), sums(4, [0, 1, 0, 1], **{name: 1.0})
    least = 2 * plain["loss"] if name == "adversarial" else plain["loss"]
    assert more["loss"] > least
    assert more["correct"] == plain["correct"]
