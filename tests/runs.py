"""A small run, as fields of the sample's config, and when two run directories hold the same one."""

import contextlib
import time

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks.reliability.comparing import contents, difference
from configs import lstm
from sentiment_jax.config.recipes import override
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.signals import Stop

SMALL = {
    "cpu_devices": 1,  # as in the tests' own process: other sums round differently
    "epochs": 3,
    "log_every": 2,
    "checkpoint_every": 100,  # a save takes a quarter of a second
    "early_stopping_patience": 0,
    "linear_baseline": False,  # scikit-learn takes a second to import
    "data.limit": 60,
    "data.test_limit": 30,
    "data.max_length": 24,
    "data.length_buckets": (12,),
    "model.embedding_size": 8,
    "model.hidden_size": 6,
    "model.dense_size": 5,
}
STEPS = 24  # of a run of LONGER
ONE_SHAPE = {"data.length_buckets": ()}  # one program to compile where shapes are not the point
LONGER = ONE_SHAPE | {"epochs": 2, "batch_size": 4, "log_every": 1, "checkpoint_every": 100}


def make_small(**changes):
    """An LSTM on a few dozen embedded texts: a run takes seconds."""
    return override(lstm.get_config("sample"), SMALL | changes)


def small_flags(**changes):
    """The small run on the command line, after --config=configs/lstm.py:sample."""
    return [f"--config.{name}={value}" for name, value in (SMALL | changes).items()]


def at_step(step, act):
    """A Progress.add that acts once the metrics of a step have arrived."""
    add = Progress.add

    def add_and_act(progress, *arguments):
        added = add(progress, *arguments)
        if added.step == step:
            act()
        return added

    return add_and_act


def stop_at(question):
    """A stop whose answer is yes from the n-th question on."""
    stop = Stop()
    answers = iter([False] * (question - 1))
    stop.asked = lambda: next(answers, True)
    return stop


PAINT = Figure.savefig


def leave_white(figure, path, **options):
    """As Figure.savefig, without drawing, which takes a third of a second."""
    width, height = figure.get_size_inches()
    matplotlib.image.imsave(path, np.ones((int(height), int(width), 3)), format="png")


@contextlib.contextmanager
def saving_figures(save):
    """Meanwhile figures are saved in this way: runs.PAINT, or runs.leave_white."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


def change_json(path, group="", /, **changes):
    """Write a sealed file again with other entries, or with other entries of one group."""
    content = read_json(path)
    write_json(path, content | ({group: content[group] | changes} if group else changes))


def wait_until(happened, *processes, seconds=150):
    """Wait for what these processes bring about; none may end before."""
    deadline = time.monotonic() + seconds
    while not happened():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def lines_of(workdir):
    """How many lines metrics.jsonl has."""
    log = workdir / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def contents_without_lock(workdir):
    """The contents of a run directory, except the lock, which every command writes."""
    return {path: found for path, found in contents(workdir).items() if path.name != "lock"}


def assert_same_run(first, second):
    assert not difference(first, second)


def assert_rounding_apart(first, second, steps):
    """Two runs whose sums were taken in another order."""
    records = [read_metrics(run / "metrics.jsonl") for run in (first, second)]
    losses = [[r["loss"] for r in run if r["split"] == "train"] for run in records]
    assert len(losses[0]) == steps
    assert losses[0][0] != losses[0][-1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    rows = [(run / "predictions.csv").read_text().splitlines() for run in (first, second)]
    assert [row.split(",")[:3] for row in rows[0]] == [row.split(",")[:3] for row in rows[1]]
    val, other = (read_json(run / "result.json")["val"] for run in (first, second))
    assert (val["accuracy"], val["examples"]) == (other["accuracy"], other["examples"])
