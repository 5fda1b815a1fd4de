"""Warnings of a training that means nothing, each with its figure; test_classes: none."""

import dataclasses
import itertools
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import runs
from reviews import write_csv
from tqdm import tqdm

from sentiment_jax.config.schema import Config, EncoderConfig, LstmConfig
from sentiment_jax.data.batches import PlannedBatch
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import console, fit
from sentiment_jax.training.checks import resolve
from sentiment_jax.training.console import warn_of_chance, warn_of_slow_epochs
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.steps import TrainState
from sentiment_jax.training.tasks.classification import CLASSIFICATION

WORDS = ("seen", "sold", "left", "came", "turned", "went", "made", "held", "kept", "gave")
UNKNOWN = "100% of the training tokens are unknown"
SHARED = "80 of 100 test texts are in train too: their score misleads"
SEVERAL = {"data.label_separator": ";"}
PAIRS = enumerate(itertools.product(WORDS, WORDS))
ROWS = [(f"{a} {b} word{i % 50}", ("neg", "pos")[i % 2]) for i, (a, b) in PAIRS]


@pytest.fixture(autouse=True)
def warned_of_nothing():
    terminal.warn_once.cache_clear()


@pytest.mark.parametrize(
    ("changes", "contradictory", "expected"),
    [
        ({}, 0, []),
        ({}, 2, ["2 texts have both labels: nothing can be learned from them"]),
        (SEVERAL, 2, ["2 texts occur more than once, with different sets of labels"]),
        ({"data.vocabulary_size": 12}, 0, ["the vocabulary has only 12 words"]),
        ({"data.min_frequency": 1000}, 0, [UNKNOWN, "the vocabulary has only 2 words"]),
        ({"data.test_path": "{path}", "data.test_limit": 0}, 0, [SHARED]),
    ],
)
def test_data_of_worthless_scores_are_warned_of(tmp_path, capsys, changes, contradictory, expected):
    more = [(f"it {text}", label) for text, _ in ROWS[:contradictory] for label in ("neg", "pos")]
    path = write_csv(tmp_path / "mine.csv", ROWS + more)
    changes = {k: path if value == "{path}" else value for k, value in changes.items()}
    settings = {"data.source": "csv", "data.path": path, "data.limit": 0, "data.min_frequency": 1}
    experiment = CLASSIFICATION.prepare(resolve(runs.make_small(**settings | changes)))
    CLASSIFICATION.describe(experiment)
    assert capsys.readouterr().err.splitlines() == [f"warning: {text}" for text in expected]
    terminal.warn_once.cache_clear()
    CLASSIFICATION.describe(dataclasses.replace(experiment, pool=1))  # of a fold
    assert "test texts" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "parameters", "seconds", "warned"),
    [
        (EncoderConfig(), 110_000_000, 9.0, True),
        (EncoderConfig(), 110_000_000, 2.0, False),  # 150 steps take 5 minutes
        (EncoderConfig(), 22_700_000, 9.0, False),  # the recipe encoder's
        (LstmConfig(), 110_000_000, 9.0, False),
    ],
)
def test_slow_epochs_of_a_large_encoder_are_warned_of(capsys, model, parameters, seconds, warned):
    progress = Progress()
    for _ in range(5):
        progress = progress.add({"loss": 1.0, "correct": 1.0, "examples": 20.0}, seconds)
    encoded = {"train": range(3000)}
    experiment = Mock(spec=Experiment, encoded=encoded, config=Config(model=model))
    warn_of_slow_epochs(experiment, progress, parameters)
    line = "warning: an epoch takes about 22 minutes on this CPU: use a GPU, or a smaller model: "
    assert capsys.readouterr().err == (f"{line}--config=encoder\n" if warned else "")


def test_the_eta_does_not_count_the_compilation(monkeypatch):
    """The rate of a bar is that of the time since it was printed last."""
    monkeypatch.setattr(fit.devices, "put_batch", Mock())

    def train_step(*arguments):
        time.sleep(0.2)
        return arguments[0], {}

    training = Mock(spec=fit.Training, train_step=train_step, learning_rate=lambda step: 0.1)
    training.experiment = Mock()
    training.experiment.training_batch.return_value = {"token_ids": np.zeros((2, 8), np.int32)}
    planned = PlannedBatch(np.zeros(0, np.int64), 8)
    compiled = set()

    def dispatch(bar):
        *_, seconds = fit._dispatch(training, Mock(spec=TrainState), 1, planned, compiled, bar)
        return seconds

    with terminal.progress_bar(2, "epoch 1/1") as bar:
        start = bar.last_print_t
        seconds = dispatch(bar)
        assert seconds >= 0.2 and bar.last_print_t == start + seconds
        assert dispatch(bar) == 0 and bar.last_print_t == start + seconds
    hidden = tqdm(disable=True)  # of a process that is not the main one
    training.experiment.training_batch.return_value = {"token_ids": np.zeros((2, 16), np.int32)}
    assert dispatch(hidden) >= 0.2


@pytest.mark.parametrize(
    ("mcc", "loss", "classes", "warned"),
    [  # of 40 reviews, one random guesser in twenty has an MCC above 1.645 / sqrt(40) = 0.2601
        (0.27, 0.6, 2, False),
        (0.25, 0.6, 2, True),
        (0.9, 7.0, 2, True),  # ten times log 2 is 6.93
        (0.9, 7.0, 3, False),
    ],
)
def test_predictions_at_chance_are_warned_of_once(capsys, mcc, loss, classes, warned):
    scores = {"accuracy": 0.55, "loss": loss, "examples": 40}
    measured = {"mcc": mcc, "majority_baseline": 0.5, "classes": dict.fromkeys("abc"[:classes])}
    splits = ("val", "test")
    result = dict.fromkeys(splits, scores) | {"metrics": dict.fromkeys(splits, measured)}
    directory = RunDirectory(Path("runs/a"))
    config = Config(model=LstmConfig())
    warn_of_chance(config, directory, result)
    expected = (
        "warning: runs/a may be no better than guessing: val accuracy 0.5500 on 40 texts "
        f"(majority baseline: 0.5000), MCC {mcc:.4f} (by chance: 0.2601), loss {loss} "
        "(log 2: 0.6931)\n"
    ).replace("7.0", "7")
    assert capsys.readouterr().err == (expected if warned else "")


def test_the_time_of_an_epoch_is_looked_at_once(monkeypatch, tmp_path):
    warn = Mock()
    monkeypatch.setattr(console, "warn_of_slow_epochs", warn)
    train(runs.make_small(**runs.LONGER), tmp_path)
    warn.assert_called_once()
