"""The rule that chooses the best epoch and the best trial."""

import math

import pytest

from sentiment_jax.storage.selection import is_best, validation_rank

BEST_FIRST = {
    "accuracy": [{"accuracy": 0.9, "loss": 0.6}, {"accuracy": 0.8, "loss": 0.1}],
    "loss of equal accuracies": [{"accuracy": 0.9, "loss": 0.3}, {"accuracy": 0.9, "loss": 0.4}],
    "balanced accuracy": [
        {"accuracy": 0.7, "balanced_accuracy": 0.8, "loss": 0.6},
        {"accuracy": 0.9, "balanced_accuracy": 0.6, "loss": 0.1},
    ],
    "loss of a pre-training": [
        {"accuracy": 0.1, "perplexity": 2.0, "loss": 0.7},
        {"accuracy": 0.9, "perplexity": 3.0, "loss": 1.1},
    ],
    "a finite loss": [{"accuracy": 0.1, "loss": 9.0}, {"accuracy": 0.9, "loss": math.nan}],
}


@pytest.mark.parametrize("decides", BEST_FIRST)
def test_the_better_of_two(decides):
    better, worse = BEST_FIRST[decides]
    assert validation_rank(better) > validation_rank(worse)
    assert is_best(better, worse) and not is_best(worse, better)


def test_of_equal_epochs_the_newest_and_never_one_without_a_finite_loss():
    scores = {"accuracy": 0.5, "loss": 0.7}
    assert is_best(scores, None) and is_best(scores, scores)
    assert not is_best({"accuracy": 0.9, "loss": math.inf}, None)
