"""`--mode=evaluate`: scores a split with a run's best checkpoint."""

import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sentiment_jax.runtime import devices, terminal
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import scoring
from sentiment_jax.training.console import print_metrics, print_scores
from sentiment_jax.training.experiment import (
    Experiment,
    TrainedModel,
    load_run,
    prepare_experiment,
)
from sentiment_jax.training.metrics import measure


def evaluate_run(
    workdir: Path, split: str, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Print and return a run's scores on a split; InputError if the data are not the run's.

    `changes` are settings, "group.field" -> value, that change no score: where the data are now.
    """
    trained = load_run(workdir)
    trained.config.update_from_flattened_dict(changes or {})
    scores, metrics = score_run(trained, RunDirectory(workdir), split)
    print_scores(split, scores, f"step {trained.step}")
    print_metrics(metrics)
    print(json.dumps(scores))
    return scores


def score_run(
    trained: TrainedModel, directory: RunDirectory, split: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a run's reviews again; return a split's scores and metrics.

    Raises:
      InputError: the data are not the run's.
    """
    devices.check_batch_size("eval_batch_size", trained.config.eval_batch_size)
    experiment = prepare_experiment(trained.config, trained.tokenizer, only=split)
    directory.check_data(experiment.statistics)
    found = score_split(experiment, directory, trained.params, split)
    labels = experiment.encoded[split].labels
    return found.summary(), measure(labels, found.probabilities, trained.classes)


def score_split(
    experiment: Experiment,
    directory: RunDirectory,
    params: Any,
    split: str,
    stop: Callable[[], None] | None = None,
) -> scoring.Scores:
    """Score a split and write its predictions and lengths, if the directory can be written."""
    encoded = experiment.encoded[split]
    scores = scoring.score_reviews(experiment, params, encoded, split, stop=stop)
    try:
        length, words = experiment.config.data.max_length, experiment.words[split]
        found = scores.probabilities, length, experiment.classes
        directory.write_scores(split, encoded, words, *found)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        terminal.warn(f"predictions not written: {error}")
    return scores
