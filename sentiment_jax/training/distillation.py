"""Distillation: teachers label the unlabeled text, and the student learns from their probabilities.

With teachers of the student's own architecture this is self-training (Xie et al., 2020, Noisy
Student: the teacher predicts without dropout, the student learns with it); with larger ones, or an
ensemble, it is distillation (Hinton et al., 2015). The targets are probabilities, not classes.
"""

import contextlib
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from sentiment_jax.config.stored import config_to_json
from sentiment_jax.errors import Interrupted
from sentiment_jax.runtime import processes, startup
from sentiment_jax.storage.checkpoints import tree_sha256
from sentiment_jax.storage.files import replacing
from sentiment_jax.storage.run_directory import find_teachers
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.scoring import score_texts
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import TrainedModel, load_ensemble


def label_with_teachers(experiment: Experiment, stop: Stop) -> Experiment:
    """Label the unlabeled texts with the averaged probabilities of the teachers, if there are any.

    These are their targets, the most probable class is their label. A labeled text's target is
    its own class. Interrupted: a signal came.
    """
    if "unlabeled" not in experiment.texts:
        return experiment
    teachers = load_ensemble(find_teachers(experiment.config.data.teacher))
    predicted = [
        _predict(teacher, experiment, f"teacher {number}/{len(teachers)}", stop)
        for number, teacher in enumerate(teachers, start=1)
    ]
    probabilities: Any = np.mean(predicted, axis=0, dtype=np.float32)
    train = experiment.encoded["train"]
    own = experiment.texts["train"]
    targets = np.concatenate([own.labels.astype(np.float32), probabilities])
    decided = experiment.kind.decide(probabilities, experiment.thresholds)
    labels = np.concatenate([own.labels, decided])
    train = dataclasses.replace(train, labels=labels, targets=targets)
    digest = {"pseudo_labels_hash": hashlib.sha256(probabilities.tobytes()).hexdigest()}
    return dataclasses.replace(
        experiment,
        encoded={**experiment.encoded, "train": train},
        statistics={**experiment.statistics, **digest},
    )


def _predict(
    teacher: TrainedModel, experiment: Experiment, description: str, stop: Stop
) -> Float32[np.ndarray, "texts classes"]:
    """Return a teacher's probabilities for each text, cached if this is the only process."""

    def check_stop() -> None:
        if stop.asked():
            raise Interrupted("no step was taken; run the same command to continue")

    texts = experiment.texts["unlabeled"]
    file = None
    alone = processes.count() == 1  # several predict together: all must, or none
    if alone and (folder := startup.find_cache()):
        # Named by all that predictions depend on: run, parameters, texts in their order.
        settings = json.dumps([config_to_json(teacher.config), teacher.tokenizer.to_str()])
        key = hashlib.sha256(texts.hashes.tobytes())
        key.update(f"{settings}{tree_sha256(teacher.params)}".encode())
        file = folder / f"{key.hexdigest()}.npz"
    if file and (cached := _read(file)) is not None:
        return cached
    encoded = teacher.encode(texts)
    scores = score_texts(teacher, teacher.params, encoded, description, stop=check_stop)
    if file:
        with contextlib.suppress(OSError), replacing(file) as new, new.open("wb") as stream:
            np.savez(stream, probabilities=scores.probabilities)
    return scores.probabilities


def _read(file: Path) -> Float32[np.ndarray, "texts classes"] | None:
    try:
        # np.load leaves a damaged file open if it opens it itself; the zip checks CRCs.
        with open(file, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return stored["probabilities"]
    except Exception:  # Damage raises many kinds of errors; the teacher predicts again.
        return None
