"""`--mode=evaluate`: scores a split with a run's best checkpoint."""

import errno
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.labels import decide
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import devices, terminal
from sentiment_jax.storage.files import read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import scoring
from sentiment_jax.training.calibration import apply_temperature, fit_temperature
from sentiment_jax.training.console import print_metrics, print_scores
from sentiment_jax.training.experiment import Experiment, prepare_experiment
from sentiment_jax.training.lineage import read_corpus
from sentiment_jax.training.metrics import measure
from sentiment_jax.training.trained_model import TrainedModel, load_ensemble, load_run


def evaluate_run(
    workdir: Path, split: str, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Print and return a run's scores on a split; InputError if the data are not the run's.

    `changes` are settings, "group.field" -> value, that change no score: where the data are now.
    """
    trained = load_run(workdir)
    scores, metrics = score_run(trained, RunDirectory(workdir), split, changes)
    _print(split, scores, metrics, f"step {trained.step}")
    return scores


def score_run(
    trained: TrainedModel,
    directory: RunDirectory,
    split: str,
    changes: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a run's reviews again; return a split's scores and metrics.

    Raises:
      InputError: the data are not the run's.
    """
    experiment, _ = _read_again(trained, directory, split, changes)
    found = score_split(experiment, directory, trained.params, split)
    labels = experiment.encoded[split].labels
    return found.summary(), measure(labels, found.probabilities, trained.classes)


def evaluate_ensemble(
    workdirs: Sequence[Path],
    split: str,
    changes: Mapping[str, Any] | None = None,
    *,
    calibrated: bool = False,
) -> dict[str, Any]:
    """Print and return the scores of the mean of the probabilities of runs of the same data.

    If `calibrated`, each run's are at its temperature. Nothing is written to the runs.
    """
    first = load_ensemble(workdirs, calibrated=calibrated)
    directories, corpus, found = [*map(RunDirectory, workdirs)], None, []
    hashes = [read_json(directory.env)["data"]["data_hash"] for directory in directories]
    for workdir, other in zip(workdirs, hashes, strict=True):
        if other != hashes[0]:
            raise InputError(
                f"{workdirs[0]} and {workdir} were made with different data (hash "
                f"{hashes[0][:12]} and {other[:12]}): they have no {split} split in common"
            )
    for directory, trained in zip(directories, (first, *first.others), strict=True):
        experiment, corpus = _read_again(trained, directory, split, changes, corpus)
        encoded = experiment.encoded[split]
        scores = scoring.score_reviews(experiment, trained.params, encoded, split)
        found.append(apply_temperature(scores.probabilities, trained.temperature))
    probabilities, labels = np.mean(found, axis=0), encoded.labels
    measured = measure(labels, probabilities, trained.classes)
    accuracy = int(np.sum(decide(probabilities) == labels)) / len(labels)
    mean = {"loss": measured["log_loss"], "accuracy": accuracy, "examples": len(labels)}
    remark = f"{len(workdirs)} runs, their mean" if len(workdirs) > 1 else f"step {trained.step}"
    _print(split, mean, measured, remark + ", calibrated" * calibrated)
    return mean


def _print(split: str, scores: dict[str, Any], metrics: dict[str, Any], remark: str) -> None:
    """Print scores for a person, then, on the last line, for a script."""
    print_scores(split, scores, remark)
    print_metrics(metrics)
    print(json.dumps(scores))


def _read_again(
    trained: TrainedModel,
    directory: RunDirectory,
    split: str,
    changes: Mapping[str, Any] | None,
    corpus: Corpus | None = None,
) -> tuple[Experiment, Corpus]:
    """Read a run's reviews again, or take those of an equal run, which may lie in another order.

    InputError: they are not those that it was made with.
    """
    trained.config.update_from_flattened_dict(changes or {})
    devices.check_batch_size("eval_batch_size", trained.config.eval_batch_size)
    corpus = corpus or read_corpus(trained.config)
    directory.check_data(corpus.statistics)
    if not len(corpus.splits[split]):
        raise InputError(f"{directory.path} held out no reviews: data.validation_fraction was 0")
    return prepare_experiment(trained.config, trained.tokenizer, split, corpus), corpus


def score_split(
    experiment: Experiment,
    directory: RunDirectory,
    params: Any,
    split: str,
    stop: Callable[[], None] | None = None,
) -> scoring.Scores:
    """Score a split and write its predictions and lengths, if the directory can be written.

    Validation adds the temperature to the result.json of an earlier revision.
    """
    encoded = experiment.encoded[split]
    scores = scoring.score_reviews(experiment, params, encoded, split, stop=stop)
    try:
        length, words = experiment.config.data.max_length, experiment.words[split]
        found = scores.probabilities, length, experiment.classes
        directory.write_predictions(split, encoded, words, *found)
        if split == "val" and directory.result.exists():
            result = read_json(directory.result)
            if "temperature" not in result:
                result["temperature"] = fit_temperature(scores.probabilities, encoded.labels)
                write_json(directory.result, result)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        terminal.warn(f"predictions not written: {error}")
    return scores
