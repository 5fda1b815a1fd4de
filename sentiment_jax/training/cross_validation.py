"""Cross-validation: each fold of the reviews is scored by a model that was trained without it.

A fold is a run in folds/N, of the data that the whole has read and of the same sources, which are
recorded before the first fold. Its probabilities are kept as an array, its checkpoints are not.
"""

import dataclasses
import shutil
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config, DataConfig
from sentiment_jax.data.corpus import load_corpus, make_corpus
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.reviews import Reviews, Split, fold_splits
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage import files
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import console
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.run import Stage, TrainingRun
from sentiment_jax.training.stages import run_stages
from sentiment_jax.training.tasks.classification import score_held_out
from sentiment_jax.training.trained_model import thresholds_of


def draw_folds(data: DataConfig, splits: Mapping[str, Reviews]) -> list[Split]:
    """Return the folds of the training split; none if the config asks for none.

    InputError: there are too few reviews.
    """
    if not data.folds:
        return []
    train = splits["train"]
    return fold_splits(train, data.folds, seed=data.split_seed, grouped=data.group_duplicates)


def check_reviews(experiment: Experiment, batch_size: int) -> None:
    """Raise InputError if a batch would hold more than the reviews of a training, or of a fold."""
    if not experiment.config.optimizer.takes_steps:
        return
    folds = draw_folds(experiment.config.data, experiment.reviews)
    held_out = max((len(rows) for _, rows in folds), default=0)
    reviews = len(experiment.encoded["train"]) - held_out
    if batch_size > reviews:
        raise InputError(f"{batch_size=} is larger than the {reviews} training reviews: lower it")


def cross_validate(run: TrainingRun, stages: Sequence[Stage]) -> None:
    """Train a model per fold, by these stages, and set how many epochs the last training takes.

    That is on all reviews, for the median of the folds' best epochs.
    """
    experiment = run.experiment
    folds = draw_folds(experiment.config.data, experiment.reviews)
    if not folds:
        return
    reviews = experiment.reviews["train"]
    texts = _unlabeled_of_folds(experiment, folds)
    probabilities = np.zeros((len(reviews), len(experiment.classes)), np.float32)
    results = []
    for number, (fold, text) in enumerate(zip(folds, texts, strict=True), start=1):
        directory = RunDirectory(run.directory.folds / str(number))
        result, probabilities[fold[1]] = _train_fold(run, directory, fold, text, stages)
        if processes.is_main():
            shutil.rmtree(directory.checkpoints, ignore_errors=True)  # the size of many models
        results.append(result)
        epoch = f"epoch {result['best_epoch']}"
        console.print_scores(f"fold {number}/{len(folds)}", result["val"], epoch)
    scores, more = score_held_out(experiment, reviews.labels, probabilities)
    thresholds = thresholds_of(run.config, more)
    write_predictions(run.directory, "val", reviews, probabilities, run.config, thresholds)
    of_folds = [result["val"] | {"best_epoch": result["best_epoch"]} for result in results]
    run.cross_validated = {**scores, **more, "folds": of_folds}
    run.median_epochs = statistics.median_low(result["best_epoch"] for result in results)
    run.fold_seconds = sum(result["train_seconds"] for result in results)


def _unlabeled_of_folds(experiment: Experiment, folds: Sequence[Split]) -> Sequence[Reviews | None]:
    """Return each fold's unlabeled text: none that it holds out, or would if data.limit were 0.

    InputError: a fold holds out all of it.
    """
    data = experiment.config.data
    text = experiment.reviews.get("unlabeled")
    if text is None:
        return [None] * len(folds)
    held_out = [experiment.reviews["train"].hashes[rows] for _, rows in folds]
    if data.limit:
        splits = load_corpus(dataclasses.replace(data, limit=0, test_limit=0)).splits
        held_out += [splits["train"].hashes[rows] for _, rows in draw_folds(data, splits)]
    texts = []
    for number in range(len(folds)):
        hashes = np.concatenate(held_out[number :: len(folds)])
        texts.append(text.take(~np.isin(text.hashes, hashes)))
        if not len(texts[-1]):
            raise InputError(f"fold {number + 1} holds out all unlabeled text: add more of it")
    return texts


def _train_fold(
    run: TrainingRun,
    directory: RunDirectory,
    fold: Split,
    text: Reviews | None,
    stages: Sequence[Stage],
) -> tuple[dict[str, Any], Float32[np.ndarray, "held_out classes"]]:
    """Train without a fold, unless that is done; return result.json and its probabilities."""
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
        if text is not None:
            corpus.splits["unlabeled"] = text
        if config.model.pretrained:
            tokenizer = whole.tokenizer
        prepared = run.task.prepare(config, tokenizer, corpus)
        pool = len(prepared.encoded["train"]) + len(held_out)
        return dataclasses.replace(prepared, pool=pool)

    remedy = f"delete {directory.path}, it is trained again"
    if directory.config.exists():
        files.read_json(directory.config, remedy)
        env = files.read_json(directory.env, remedy)
        files.check_checksum(directory.tokenizer, env, remedy)
        if env["sources"] != run.sources:
            raise InputError(f"{directory.path} learned from other parameters: {remedy}")
    result = run_stages(
        run.config,
        directory.path,
        stages,
        stop=run.stop,
        nested=True,
        prepare=prepare,
        sources=run.sources,
    )
    env = files.read_json(directory.env, remedy)
    return result, files.read_array(directory.probabilities, env, remedy)


def describe_folds(result: Mapping[str, Any]) -> str:
    """Return how the accuracies of a finished run's folds deviate, "" if it has none."""
    folds = result.get("folds", ())
    if not folds:
        return ""
    deviation = statistics.stdev(fold["accuracy"] for fold in folds)
    return f"{len(folds)} folds ± {deviation:.4f}; then {result['best_epoch']} epochs on all"
