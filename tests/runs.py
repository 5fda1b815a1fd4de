"""A small run, as fields of the sample's config, and when two run directories hold the same one."""

import numpy as np

from benchmarks.comparing import difference
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import read_metrics

SMALL = {  # an LSTM on a few dozen embedded reviews: a run takes seconds
    "cpu_devices": 1,  # as in the tests' own process: other sums round differently
    "epochs": 3,
    "log_every": 2,
    "checkpoint_every": 3,
    "early_stopping_patience": 0,
    "data.limit": 60,
    "data.test_limit": 30,
    "data.max_length": 24,
    "data.length_buckets": (12,),
    "model.embedding_size": 8,
    "model.hidden_size": 6,
    "model.dense_size": 5,
}
STEPS = 24
ONE_SHAPE = {"data.length_buckets": ()}  # one program to compile where shapes are not the point
LONGER = {  # that many steps
    **ONE_SHAPE,
    "epochs": 2,
    "batch_size": 4,
    "log_every": 1,
    "checkpoint_every": 100,
}


def small_flags(**changes):
    """The small run on the command line, after --config=configs/lstm.py:sample."""
    return [f"--config.{name}={value}" for name, value in (SMALL | changes).items()]


def assert_same_run(first, second):
    assert not difference(first, second)


def assert_rounding_apart(first, second, steps):
    """Two runs whose sums were taken in another order."""
    losses = [
        [
            record["loss"]
            for record in read_metrics(run / "metrics.jsonl")
            if record["split"] == "train"
        ]
        for run in (first, second)
    ]
    assert len(losses[0]) == steps
    assert losses[0][0] != losses[0][-1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    tables = [
        [row.split(",")[:3] for row in (run / "predictions.csv").read_text().splitlines()]
        for run in (first, second)
    ]
    assert tables[0] == tables[1]
    results = [read_json(run / "result.json") for run in (first, second)]
    for split in ("val", "test"):
        assert results[0][split]["accuracy"] == results[1][split]["accuracy"]
        assert results[0][split]["examples"] == results[1][split]["examples"]
