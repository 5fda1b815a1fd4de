"""Cross-validation: each fold of the reviews is scored by a model that was trained without it.

A fold is a run in folds/N. Its probabilities are kept as an array there, its checkpoints are not.
"""

import contextlib
import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config
from sentiment_jax.data.corpus import make_corpus
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.reviews import fold_split
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_array, read_json, write_array, write_json
from sentiment_jax.storage.run_directory import RunDirectory, prepare_workdir
from sentiment_jax.training import console
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.metrics import fit_temperature, measure
from sentiment_jax.training.run import Stage, TrainingRun
from sentiment_jax.training.stages import run_stages

# The indices of the reviews to train on, and of those to hold out.
Fold = tuple[Int64[np.ndarray, " kept"], Int64[np.ndarray, " held_out"]]


def draw_folds(experiment: Experiment) -> list[Fold]:
    """Return the folds of the training reviews; none if the config asks for none.

    InputError: there are too few reviews.
    """
    data = experiment.config.data
    how: dict[str, Any] = {"seed": data.split_seed, "grouped": data.group_duplicates}
    return [
        fold_split(experiment.reviews["train"], number, data.folds, **how)
        for number in range(1, data.folds + 1)
    ]


def check(run: TrainingRun) -> None:
    """Refuse a cross-validation that has changed, and batches that its folds can't fill."""
    path = run.directory.path
    if run.changes and (run.config.data.folds or run.directory.folds.exists()):
        raise InputError(f"{path} is a cross-validation, which can't change: use --fresh")
    check_reviews(run.experiment, run.config.batch_size)


def check_reviews(experiment: Experiment, batch_size: int) -> None:
    """Raise InputError if a batch would hold more than the reviews of a training, or of a fold."""
    held_out = max((len(rows) for _, rows in draw_folds(experiment)), default=0)
    reviews = len(experiment.encoded["train"]) - held_out
    if batch_size > reviews:
        raise InputError(f"{batch_size=} is larger than the {reviews} training reviews: lower it")


def cross_validate(run: TrainingRun, stages: Sequence[Stage]) -> None:
    """Train a model per fold, by these stages, and set how many epochs the last training takes.

    That is on all reviews, for the median of the folds' best epochs.
    """
    experiment = run.experiment
    folds = draw_folds(experiment)
    if not folds:
        return
    reviews = experiment.reviews["train"]
    probabilities = np.zeros((len(reviews), len(experiment.classes)), np.float32)
    results = []
    for number, (kept, held_out) in enumerate(folds, start=1):
        directory = RunDirectory(run.directory.folds / str(number))
        result, probabilities[held_out] = _train_fold(run, directory, (kept, held_out), stages)
        if processes.is_main():
            shutil.rmtree(directory.checkpoints, ignore_errors=True)  # the size of many models
        results.append(result)
        epoch = f"epoch {result['best_epoch']}, the best"
        console.print_scores(f"fold {number}/{len(folds)}", result["val"], epoch)
    order = experiment.statistics["order_hash"]["train"]
    write_predictions(run.directory, "val", reviews, probabilities, order, run.config)
    measured = measure(reviews.labels, probabilities, experiment.classes)
    scores = [result["val"] for result in results]
    validated = {name: measured[name] for name in scores[0] if name in measured}
    weights = [of_fold["examples"] for of_fold in scores]
    for name in ("loss", "accuracy"):
        validated[name] = float(np.average([of_fold[name] for of_fold in scores], weights=weights))
    validated |= {
        "examples": len(reviews),
        "metrics": measured,
        "temperature": fit_temperature(probabilities, reviews.labels),
        "folds": [result["val"] | {"best_epoch": result["best_epoch"]} for result in results],
    }
    run.cross_validated = validated
    run.median_epochs = statistics.median_low(result["best_epoch"] for result in results)
    run.fold_seconds = sum(result["train_seconds"] for result in results)


def _train_fold(
    run: TrainingRun, directory: RunDirectory, fold: Fold, stages: Sequence[Stage]
) -> tuple[dict[str, Any], Float32[np.ndarray, "held_out classes"]]:
    """Train without a fold, unless that is done; return result.json and the probabilities for it.

    A fold that 0215bc7 validated, which kept no array, is trained again.
    """
    whole = run.experiment
    reviews = whole.reviews["train"]
    kept, held_out = fold

    def prepare(config: Config, tokenizer: Tokenizer | None) -> Experiment:
        corpus = make_corpus(
            whole.statistics["source"],
            train=reviews.take(kept),
            val=reviews.take(held_out),
            test=whole.reviews["test"],  # part of the data's hash, but a fold scores none of it
        )
        corpus.splits["test"] = reviews.take(np.arange(0))
        prepared = run.task.prepare(config, tokenizer, corpus)
        pool = len(prepared.encoded["train"]) + len(held_out)
        return dataclasses.replace(prepared, pool=pool)

    prepare_workdir(directory.path, nested=True)
    if processes.is_main() and not directory.probabilities.exists() and _was_validated(directory):
        shutil.rmtree(directory.checkpoints, ignore_errors=True)
        directory.result.unlink(missing_ok=True)
    log = (directory.path / "log.txt").open("a", encoding="utf-8")
    with log, contextlib.redirect_stdout(log):
        result = run_stages(
            run.config,
            directory.path,
            stages,
            task=run.task,
            stop=run.stop,
            prepare=prepare,
            hooks=[_keep_probabilities],
        )
    remedy = f"delete {directory.path}, it is trained again"
    return result, read_array(directory.probabilities, read_json(directory.env, remedy), remedy)


def _was_validated(fold: RunDirectory) -> bool:
    if fold.result.exists():
        return True
    checkpoints = Checkpoints(fold.checkpoints, read_only=True)
    intact = [step for step in checkpoints.steps if not checkpoints.fault(step)]
    return any(checkpoints.bookkeeping(step)["best"] for step in intact[-1:])


def _keep_probabilities(run: TrainingRun) -> None:
    """Write the probabilities of the best epoch so far as they are."""
    if run.progress.is_best and run.validation and run.validation.probabilities is not None:
        entry = write_array(run.directory.probabilities, run.validation.probabilities)
        if entry:
            write_json(run.directory.env, read_json(run.directory.env) | entry)


def describe_folds(result: Mapping[str, Any]) -> str:
    """Return how the accuracies of a finished run's folds deviate, "" if it has none."""
    folds = result.get("folds", ())
    if not folds:
        return ""
    deviation = statistics.stdev(fold["accuracy"] for fold in folds)
    return f"{len(folds)} folds ± {deviation:.4f}; then {result['best_epoch']} epochs on all"
