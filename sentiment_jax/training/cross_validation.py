"""Cross-validation: each fold of the texts is scored by a model that was trained without it.

A fold is a run in folds/N, of a slice of the texts and of the same sources, which are recorded
before the first fold. Its probabilities are kept as an array, its checkpoints are not.
"""

import dataclasses
import shutil
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from sentiment_jax.data.dataset import make_dataset
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.texts import Split, fold_splits
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage import files
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import compilation, console, results
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.fit import fit
from sentiment_jax.training.run import Run, open_run, tokenizer_of
from sentiment_jax.training.tasks.classification import score_held_out
from sentiment_jax.training.trained_model import thresholds_of


def draw_folds(experiment: Experiment, batch_size: int) -> list[Split]:
    """Return the folds of the training split; none if the config asks for none.

    InputError: too few texts, or a batch would hold more than those of a training, or of a fold.
    """
    data = experiment.config.data
    folds = []
    if data.folds:
        train = experiment.texts["train"]
        folds = fold_splits(train, data.folds, seed=data.split_seed, grouped=data.group_duplicates)
    held_out = max((len(rows) for _, rows in folds), default=0)
    texts = len(experiment.encoded["train"]) - held_out
    if experiment.config.optimizer.takes_steps and batch_size > texts:
        raise InputError(f"{batch_size=} is larger than the {texts} training texts: lower it")
    return folds


@dataclasses.dataclass(frozen=True)
class CrossValidated:
    """What the folds of a cross-validation show; nothing if there are none."""

    # Of result.json: the scores of all texts, metrics, thresholds, and the folds' scores.
    entries: dict[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 0  # the median of the folds' best: after it the training on all texts ends
    seconds: float = 0.0  # of the folds' training


def cross_validate(run: Run, experiment: Experiment, folds: Sequence[Split]) -> CrossValidated:
    """Train a model per fold, and score each text by the model that has not seen it."""
    texts = experiment.texts["train"]
    probabilities = np.zeros((len(texts), len(experiment.classes)), np.float32)
    finished = []
    for number, fold in enumerate(folds, start=1):
        directory = RunDirectory(run.directory.folds / str(number))
        result, probabilities[fold[1]] = _train_fold(run, experiment, directory, fold)
        if processes.is_main():
            shutil.rmtree(directory.checkpoints, ignore_errors=True)  # the size of many models
        finished.append(result)
        epoch = f"epoch {result['best_epoch']}"
        console.print_scores(f"fold {number}/{len(folds)}", result["val"], epoch)
    scores, more = score_held_out(experiment, texts.labels, probabilities)
    config = experiment.config
    thresholds = thresholds_of(config, more)
    write_predictions(run.directory, "val", texts, probabilities, config, thresholds)
    of_folds = [result["val"] | {"best_epoch": result["best_epoch"]} for result in finished]
    return CrossValidated(
        entries={**scores, **more, "folds": of_folds},
        epochs=statistics.median_low(result["best_epoch"] for result in finished),
        seconds=sum(result["train_seconds"] for result in finished),
    )


def _train_fold(
    run: Run, whole: Experiment, directory: RunDirectory, fold: Split
) -> tuple[dict[str, Any], Float32[np.ndarray, "held_out classes"]]:
    """Train without a fold, unless that is done; return result.json and its probabilities."""
    remedy = f"delete {directory.path}, it is trained again"
    if directory.config.exists():
        files.read_json(directory.config, remedy)
        env = files.read_json(directory.env, remedy)
        files.check_checksum(directory.tokenizer, env, remedy)
        if run.sources is not None and env["sources"] != run.sources:
            raise InputError(f"{directory.path} learned from other parameters: {remedy}")
    with open_run(
        whole.config, directory.path, run.task, nested=True, stop=run.stop, sources=run.sources
    ) as part:
        result = part.finished
        experiment = _slice(part, whole, fold)
        if result is not None:
            learned = files.read_json(directory.env, remedy)["data"]["data_hash"]
            if learned != experiment.statistics["data_hash"]:
                raise InputError(f"{directory.path} learned from other texts: {remedy}")
        else:
            seconds = compilation.check_memory(experiment)
            fitted = fit(part, experiment.without_test(), compile_seconds=seconds)
            results.restore_predictions(part.directory, experiment, fitted)
            result = results.finish(part.directory, results.describe_result(experiment, fitted))
            results.print_validation(experiment, result)
    env = files.read_json(directory.env, remedy)
    return result, files.read_array(directory.probabilities, env, remedy)


def _slice(part: Run, whole: Experiment, fold: Split) -> Experiment:
    """Return the data of a fold."""
    texts = whole.texts["train"]
    kept, held_out = fold
    dataset = make_dataset(
        whole.statistics["source"],
        train=texts.take(kept),
        val=texts.take(held_out),
        test=whole.texts["test"],  # part of the data's hash, but a fold scores none of it
    )
    dataset.splits["test"] = texts.take(np.arange(0))
    pretrained = whole.config.model.pretrained
    tokenizer = whole.tokenizer if pretrained else tokenizer_of(part)
    prepared = part.task.prepare(part.config, tokenizer, dataset)
    pool = len(prepared.encoded["train"]) + len(held_out)
    return dataclasses.replace(prepared, pool=pool)
