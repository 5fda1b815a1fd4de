"""A small run, as fields of the sample's config, and when two run directories hold the same one."""

from benchmarks.comparing import difference

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
