"""The rule that chooses the best epoch and the best trial."""

import math

import pytest

from sentiment_jax.storage.selection import WORST, validation_rank
from sentiment_jax.training.run import Progress


def scores(accuracy, loss, **more):
    return {"accuracy": accuracy, "loss": loss, **more}


BETTER_AND_WORSE = [
    ("accuracy", scores(0.9, 0.6), scores(0.8, 0.1)),
    ("accuracy", scores(0.9, 0.3), scores(0.9, 0.4)),
    ("accuracy", scores(0.7, 0.6, balanced_accuracy=0.8), scores(0.9, 0.1, balanced_accuracy=0.6)),
    ("accuracy", scores(0.1, 0.7, perplexity=2.0), scores(0.9, 1.1, perplexity=3.0)),
    ("accuracy", scores(0.1, 9.0), scores(0.9, math.nan)),
    ("loss", scores(0.8, 0.1), scores(0.9, 0.6)),
    ("loss", scores(0.9, 0.1), scores(0.8, 0.1)),
]
for metric in ("balanced_accuracy", "macro_f1", "auc"):
    high = scores(0.5, 0.6, **{metric: 0.9})
    low = scores(0.9, 0.1, **{metric: 0.8})
    BETTER_AND_WORSE += [(metric, high, low), (metric, high | {"loss": 0.5}, high)]


@pytest.mark.parametrize(("select_by", "better", "worse"), BETTER_AND_WORSE)
def test_the_better_of_two(select_by, better, worse):
    assert validation_rank(better, select_by) > validation_rank(worse, select_by)


def test_the_rule_decides_when_to_stop():
    progress = Progress()
    for epoch in (scores(0.8, 0.1), scores(0.9, 0.6)):
        progress.end_epoch(epoch, patience=1, select_by="loss")
    assert (progress.best["epoch"], progress.stopped_early) == (1, True)


def test_of_equal_epochs_the_newest_and_never_one_without_a_finite_loss():
    progress = Progress()
    for loss, best in ((math.inf, None), (0.7, 2), (0.7, 3), (math.nan, 3)):
        progress.end_epoch(scores(0.5, loss), patience=0, select_by="accuracy")
        assert (progress.best and progress.best["epoch"]) == best
    assert validation_rank(None, "accuracy") == WORST
    assert validation_rank(scores(0.9, 0.1, auc=None), "auc") > WORST, "of one class alone"
