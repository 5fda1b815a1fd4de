"""The rule that chooses the best epoch and the best trial."""

import math

import pytest

from sentiment_jax.config.schema import Config
from sentiment_jax.storage.selection import BY_ACCURACY, BY_LOSS, WORST, Ranking
from sentiment_jax.training.progress import Progress


def scores(accuracy, loss, **more):
    return {"accuracy": accuracy, "loss": loss, **more}


BETTER_AND_WORSE = [
    ("accuracy", scores(0.9, 0.6), scores(0.8, 0.1)),
    ("accuracy", scores(0.9, 0.3), scores(0.9, 0.4)),
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
    ranking = Ranking.of(Config(select_by=select_by))
    assert ranking.key(better) > ranking.key(worse)


@pytest.mark.parametrize(("select_by", "loss"), [("accuracy", 0.6), ("loss", 0.1)])
def test_with_balanced_class_weights_the_balanced_accuracy_stands_for_the_accuracy(select_by, loss):
    ranking = Ranking.of(Config(select_by=select_by, class_weights="balanced"))
    better = scores(0.7, loss, balanced_accuracy=0.8)
    assert ranking.key(better) > ranking.key(scores(0.9, 0.1, balanced_accuracy=0.6))


def test_a_pretraining_is_ranked_by_its_loss_alone():
    assert BY_LOSS.key(scores(0.1, 0.7)) > BY_LOSS.key(scores(0.9, 1.1)) > BY_LOSS.key(None)


def test_the_rule_decides_when_to_stop():
    progress = Progress()
    for epoch in (scores(0.8, 0.1), scores(0.9, 0.6)):
        progress = progress.end_epoch(epoch, {}, BY_LOSS)
    assert (progress.best["epoch"], progress.has_stopped(patience=1)) == (1, True)
    assert not progress.has_stopped(patience=2) and not progress.has_stopped(patience=0)


def test_of_equal_epochs_the_newest_and_never_one_without_a_finite_loss():
    progress = Progress()
    for loss, best in ((math.inf, None), (0.7, 2), (0.7, 3), (math.nan, 3)):
        progress = progress.end_epoch(scores(0.5, loss), {}, BY_ACCURACY)
        assert (progress.best and progress.best["epoch"]) == best
    assert BY_ACCURACY.key(None) == WORST
    assert Ranking(("auc", "loss")).key(scores(0.9, 0.1, auc=None)) > WORST, "of one class alone"
