"""A small run, as fields of the sample's config, and when two run directories hold the same one."""

import jax
import numpy as np

from benchmarks.comparing import TIMES
from sentiment_jax.storage.checkpoints import Checkpoints
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


def final_state(workdir):
    """Parameters and optimiser state of the last checkpoint, as numpy."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as reader:
        folder = checkpoints.directory / str(checkpoints.steps[-1])
        return [
            jax.tree.map(np.asarray, reader.restore(folder / n)) for n in ("params", "opt_state")
        ]


def metrics(workdir):
    """metrics.jsonl without what a clock decides."""
    records = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def assert_same_run(first, second):
    jax.tree.map(np.testing.assert_array_equal, final_state(first), final_state(second))
    assert metrics(first) == metrics(second)
    results = [read_json(run / "result.json") for run in (first, second)]
    for result in results:
        for name in (*TIMES, "metrics_sha256"):
            del result[name]
    assert results[0] == results[1]
    assert (first / "predictions.csv").read_text() == (second / "predictions.csv").read_text()
