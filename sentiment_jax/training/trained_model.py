"""TODO training.trained_model."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sentiment_jax.config.schema import OBJECTIVES, class_names
from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded, encode
from sentiment_jax.data.reviews import Reviews
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import build_model
from sentiment_jax.runtime import devices
from sentiment_jax.storage.checkpoints import Checkpoints, entries
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory

READ_ATTEMPTS = 20  # at a checkpoint, beside a training that replaces it


Found = TypeVar("Found")


@dataclasses.dataclass(frozen=True)
class Classifier:
    """What judging a text takes besides parameters."""

    config: ConfigDict
    tokenizer: Any
    model: nn.Module
    mesh: Mesh

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes' names in the order of the logits."""
        return class_names(self.config)

    @property
    def buckets(self) -> tuple[int, ...]:
        """Return the padded lengths, the last of them max_length."""
        settings = self.config.data
        return batches.effective_buckets(settings.length_buckets, settings.max_length)

    def encode(self, reviews: Reviews) -> Encoded:
        """Turn reviews into token ids, cut as in training."""
        return encode(
            self.tokenizer, reviews, self.config.data.max_length, self.config.data.truncation
        )


@dataclasses.dataclass(frozen=True)
class TrainedModel(Classifier):
    """The best checkpoint of a run directory."""

    params: Any
    step: int
    temperature: float = 1.0  # of its probabilities in predict.py and evaluate.py
    others: tuple["TrainedModel", ...] = ()  # the mean of their probabilities and its own counts


def check_objective(run: Path, config: ConfigDict) -> None:
    """Raise InputError for a pre-training that this revision can't read."""
    if (objective := config.pretrain.objective) not in ("", *OBJECTIVES.values()):
        raise InputError(
            f"{run} learned {objective}, which later revisions don't: pre-train again "
            "(--mode=pretrain)"
        )


def make_classifier(config: ConfigDict, tokenizer: Any) -> Classifier:
    """Build the model of a resolved config."""
    size = tokenizer.get_vocab_size()
    settings, classes = config.model.to_dict(), len(class_names(config))
    head: dict[str, Any] = {"classes": classes, "objective": config.pretrain.objective}
    model = build_model(settings, vocab_size=size, **head)
    return Classifier(config, tokenizer, model, devices.data_mesh())


def restore_model(like: Classifier, checkpoints: Checkpoints, step: int) -> TrainedModel:
    """Restore the parameters of one checkpoint, a copy on each device."""
    shapes = devices.abstract(abstract_params(like.model), like.mesh)
    params = checkpoints.restore(step, params=shapes)["params"]
    return TrainedModel(like.config, like.tokenizer, like.model, like.mesh, params, step)


def load_run(workdir: Path, *, calibrated: bool = False, classifies: bool = True) -> TrainedModel:
    """Read the best checkpoint of a run directory, also beside its training.

    If `calibrated`, the temperature is the one that was fitted on validation. A pre-training, which
    judges nothing, is read only where that is not asked for.

    InputError: not a run directory, or nothing validated in it yet. RunError: damaged.
    """
    directory = RunDirectory(workdir)
    directory.check_found()
    config = directory.read_config()
    check_objective(workdir, config)
    if classifies and config.pretrain.objective:
        raise InputError(
            f"{workdir} is a pre-training, which judges no review: fine-tune from it by "
            f"--config.model.pretrained={workdir}"
        )
    return _beside_training(directory, functools.partial(_load_best, calibrated=calibrated))


def _beside_training(directory: RunDirectory, read: Callable[[RunDirectory], Found]) -> Found:
    """Return what `read` finds, trying again where checkpoints were replaced meanwhile."""
    attempts = READ_ATTEMPTS
    while True:
        before = entries(directory.checkpoints)
        try:
            return read(directory)
        except Exception:  # of whatever type: the training may have moved what was read
            attempts -= 1
            if not attempts or entries(directory.checkpoints) == before:
                raise


def load_ensemble(workdirs: Sequence[Path], *, calibrated: bool = False) -> TrainedModel:
    """Read several runs as one model, the mean of them; InputError if their classes differ."""
    first, *others = (load_run(workdir, calibrated=calibrated) for workdir in workdirs)
    for workdir, other in zip(workdirs[1:], others, strict=True):
        if other.classes != first.classes:
            known = ", ".join(first.classes), ", ".join(other.classes)
            raise InputError(
                f"{workdirs[0]} tells {known[0]}, {workdir} tells {known[1]}: there is no mean of "
                "different classes"
            )
    return dataclasses.replace(first, others=tuple(others))


def _find_best(directory: RunDirectory) -> dict[str, Any]:
    """Return what is recorded of the best checkpoint, which is intact; no parameter is read."""
    checkpoints = Checkpoints(directory.checkpoints, read_only=True)
    if directory.result.exists():
        best = read_json(directory.result)
        best["step"] = best["best_step"]
    else:
        _check_intact(checkpoints, checkpoints.steps[-1])
        best = checkpoints.bookkeeping(checkpoints.steps[-1])["best"]
        if best is None:
            raise InputError(
                f"{directory.path} has no validated checkpoint yet (steps found: "
                f"{checkpoints.steps}); let its first epoch end"
            )
    _check_intact(checkpoints, best["step"])
    return best


def _load_best(directory: RunDirectory, calibrated: bool) -> TrainedModel:
    classifier = make_classifier(directory.read_config(), directory.load_tokenizer())
    best = _find_best(directory)
    checkpoints = Checkpoints(directory.checkpoints, read_only=True)
    trained = restore_model(classifier, checkpoints, best["step"])
    if not calibrated:
        return trained
    if "temperature" not in best:
        reason = (
            "keeps no temperature, as runs of earlier revisions: --mode=evaluate --split=val "
            f"--workdir={directory.path} fits it"
            if classifier.config.data.validation_fraction
            else "held out no reviews (data.validation_fraction=0) to fit a temperature on: leave "
            "the probabilities as they are"
        )
        raise InputError(f"{directory.path} {reason}")
    return dataclasses.replace(trained, temperature=best["temperature"])


def _check_intact(checkpoints: Checkpoints, step: int) -> None:
    if fault := checkpoints.fault(step):
        raise RunError(
            f"the checkpoint of step {step} in {checkpoints.directory} is damaged ({fault}): put "
            "its files back, or train again with --fresh"
        )
