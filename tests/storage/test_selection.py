"""The rule that chooses the best epoch and the best trial."""

import math

import pytest

from sentiment_jax.storage.selection import WORST, validation_rank
from sentiment_jax.training.run import Progress

BETTER_AND_WORSE = {
    "accuracy": ({"accuracy": 0.9, "loss": 0.6}, {"accuracy": 0.8, "loss": 0.1}),
    "loss of equal accuracies": ({"accuracy": 0.9, "loss": 0.3}, {"accuracy": 0.9, "loss": 0.4}),
    "balanced accuracy": (
        {"accuracy": 0.7, "balanced_accuracy": 0.8, "loss": 0.6},
        {"accuracy": 0.9, "balanced_accuracy": 0.6, "loss": 0.1},
    ),
    "loss of a pre-training": (
        {"accuracy": 0.1, "perplexity": 2.0, "loss": 0.7},
        {"accuracy": 0.9, "perplexity": 3.0, "loss": 1.1},
    ),
    "a finite loss": ({"accuracy": 0.1, "loss": 9.0}, {"accuracy": 0.9, "loss": math.nan}),
}


@pytest.mark.parametrize("decides", BETTER_AND_WORSE)
def test_the_better_of_two(decides):
    better, worse = BETTER_AND_WORSE[decides]
    assert validation_rank(better, "accuracy") > validation_rank(worse, "accuracy")


def test_select_by_loss_puts_the_loss_first():
    low = {"accuracy": 0.8, "loss": 0.1}
    high = {"accuracy": 0.9, "loss": 0.6}
    assert validation_rank(low, "loss") > validation_rank(high, "loss")
    assert validation_rank({**low, "accuracy": 0.9}, "loss") > validation_rank(low, "loss")
    progress = Progress()
    for scores in (low, high):
        progress.end_epoch(scores, patience=1, select_by="loss")
    assert (progress.best["epoch"], progress.stopped_early) == (1, True)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "auc"])
def test_select_by_another_metric_puts_it_first(metric):
    high = {"accuracy": 0.5, "loss": 0.6, metric: 0.9}
    low = {"accuracy": 0.9, "loss": 0.1, metric: 0.8}
    assert validation_rank(high, metric) > validation_rank(low, metric)
    assert validation_rank({**high, "loss": 0.5}, metric) > validation_rank(high, metric)
    assert validation_rank({**low, metric: None}, metric) > WORST  # the AUC of one class alone


def test_of_equal_epochs_the_newest_and_never_one_without_a_finite_loss():
    progress = Progress()
    for loss, best in ((math.inf, None), (0.7, 2), (0.7, 3), (math.nan, 3)):
        progress.end_epoch({"accuracy": 0.5, "loss": loss}, patience=0, select_by="accuracy")
        assert (progress.best and progress.best["epoch"]) == best
    assert validation_rank(None, "accuracy") == WORST
