"""Verdicts of finished runs on the reviews without labels: the targets of those in training.

With runs of the student's own architecture this is self-training (Xie et al., 2020, Noisy Student:
the teacher judges without dropout, the student learns with it); with larger ones it is distillation
(Hinton et al., 2015). The targets are probabilities, so that a doubt stays a doubt.
"""

import dataclasses
import hashlib
import json

import jax
import numpy as np
from jaxtyping import Float32

from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import config_to_json
from sentiment_jax.data.cache import read_cached, write_cached
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.data.tokenization import tokenizer_hash
from sentiment_jax.data.unlabeled import texts_hash, unlabeled_reviews
from sentiment_jax.errors import InputError, Interrupted
from sentiment_jax.runtime import processes
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.lineage import teachers
from sentiment_jax.training.scoring import score_reviews
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import TrainedModel, load_ensemble


def distill(experiment: Experiment, stop: Stop) -> Experiment:
    """Give the reviews without labels the mean of the verdicts of data.teacher, if it names runs.

    A labeled review keeps its label, as a distribution; a taught one's label is the likeliest.

    InputError: the reviews without labels changed meanwhile. Interrupted: a signal came.
    """
    runs = teachers(experiment.config)
    if not runs:
        return experiment
    data, train = DataConfig(**experiment.config.data.to_dict()), experiment.encoded["train"]
    reviews = unlabeled_reviews(data, experiment.config.pretrain.text)
    if texts_hash(reviews) != experiment.statistics["unlabeled_hash"]:
        raise InputError("the reviews without labels changed meanwhile: run the same command again")
    first = load_ensemble(runs)
    judged = [
        _judge(run, reviews, data, f"teacher {i}/{len(runs)}", stop)
        for i, run in enumerate((first, *first.others), start=1)
    ]
    verdicts, unknown = np.mean(judged, axis=0, dtype=np.float32), train.labels < 0
    targets = np.eye(len(experiment.classes), dtype=np.float32)[train.labels]
    targets[unknown] = verdicts
    labels = np.where(unknown, targets.argmax(axis=1), train.labels).astype(np.int32)
    train = dataclasses.replace(train, labels=labels, targets=targets)
    statistics = {"pseudo_labels_hash": hashlib.sha256(verdicts.tobytes()).hexdigest()}
    return dataclasses.replace(
        experiment,
        encoded={**experiment.encoded, "train": train},
        statistics={**experiment.statistics, **statistics},
    )


def _judge(
    run: TrainedModel, reviews: Reviews, data: DataConfig, description: str, stop: Stop
) -> Float32[np.ndarray, "reviews classes"]:
    """Return a run's probabilities for each review; where the process is alone, a copy is kept."""

    def end() -> None:
        if stop.asked():
            raise Interrupted("no step was taken; run the same command to continue")

    alone = processes.count() == 1  # several judge together: all must, or none
    key = _key(run, reviews) if alone else b""
    if alone and (copy := read_cached(key)):
        return copy["probabilities"]
    scores = score_reviews(run, run.params, run.encode(reviews), description, stop=end)
    if alone:
        write_cached(key, probabilities=scores.probabilities)
    return scores.probabilities


def _key(run: TrainedModel, reviews: Reviews) -> bytes:
    """Return a digest of all that verdicts depend on: run, parameters, texts in their order."""
    key = hashlib.sha256(reviews.hashes.tobytes())
    key.update(json.dumps([config_to_json(run.config), tokenizer_hash(run.tokenizer)]).encode())
    for leaf in jax.tree.leaves(run.params):
        key.update(np.asarray(leaf).tobytes())
    return key.digest()
