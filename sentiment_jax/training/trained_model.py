"""A trained classifier, loaded from its run, even while the run is still training."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config
from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded, encode, encode_ngrams
from sentiment_jax.data.kinds import LabelKind, kind_of
from sentiment_jax.data.labels import apply_temperature, same_classes
from sentiment_jax.data.texts import Texts, list_classes
from sentiment_jax.data.tokenization import load_run_tokenizer
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.models.layers import compute_dtype
from sentiment_jax.models.outputs import Softmax, output_of
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.models.registry import ARCHITECTURES, build_model
from sentiment_jax.runtime import devices
from sentiment_jax.storage.checkpoints import Checkpoints, entries, tree_sha256
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory

Found = TypeVar("Found")
BAGS = tuple(2**power for power in range(6, 24))  # padded lengths of bags of n-grams


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Everything needed to classify text, except parameters."""

    config: Config
    tokenizer: Tokenizer
    model: nn.Module
    mesh: Mesh
    thresholds: Sequence[float] = dataclasses.field(default=(), kw_only=True)  # of classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in the order of the logits."""
        return self.config.classes

    @property
    def kind(self) -> LabelKind:
        """The kind of its labels."""
        return kind_of(self.config.data)

    @property
    def output(self) -> Softmax:
        """What its logits mean."""
        return output_of(self.config.data)

    @property
    def buckets(self) -> tuple[int, ...]:
        """The padded lengths, the last of them max_length, which cuts no bag of n-grams."""
        if self.counts_ngrams:
            return BAGS
        data = self.config.data
        return batches.effective_buckets(data.length_buckets, data.max_length)

    @property
    def counts_ngrams(self) -> bool:
        """Whether a text is a bag of n-grams."""
        return ARCHITECTURES[self.config.model.name].vocabulary == "ngrams"

    @property
    def packs(self) -> bool:
        """Whether rows of batches hold several texts."""
        config = self.config
        one = self.mesh.size == config.gradient_accumulation == 1
        return config.data.packing and ARCHITECTURES[config.model.name].packs and one

    def encode(self, texts: Texts, advance: Callable[[int], Any] = lambda count: None) -> Encoded:
        """Turn texts into token ids as in training; `advance` is that of `encoding.encode`."""
        data = self.config.data
        if texts.labels.shape[1] != len(self.classes):  # texts alone, to predict
            none = np.zeros((len(texts), len(self.classes)), bool)
            texts = dataclasses.replace(texts, labels=none)
        if self.counts_ngrams:
            return encode_ngrams(self.tokenizer, texts, advance)
        return encode(self.tokenizer, texts, data.max_length, data.truncation, advance)


@dataclasses.dataclass(frozen=True)
class TrainedModel(Classifier):
    """The best checkpoint of a run directory."""

    params: Any
    step: int
    temperature: Any = 1.0  # of its probabilities in modes/predict.py, or one of each label


def thresholds_of(config: Config, fitted: Mapping[str, Any]) -> Sequence[float]:
    """Return the thresholds that validation chose, or else those of the kind of labels."""
    return fitted.get("thresholds") or kind_of(config.data).thresholds(len(config.classes))


def make_classifier(config: Config, tokenizer: Tokenizer) -> Classifier:
    """Build the network of a config."""
    model = build_model(
        config.model,
        vocab_size=tokenizer.get_vocab_size(),
        classes=len(config.classes),
        objective=config.pretrain.objective,
        multi_label=config.data.multi_label,
    )
    thresholds = thresholds_of(config, {})
    return Classifier(config, tokenizer, model, devices.data_mesh(), thresholds=thresholds)


def restore_model(
    like: Classifier, checkpoints: Checkpoints, best: Mapping[str, Any]
) -> TrainedModel:
    """Restore the parameters of the best checkpoint, a copy on each device."""
    shapes = devices.abstract(abstract_params(like.model), like.mesh)
    params = checkpoints.read(best["step"], "params", shapes)
    same = (like.config, like.tokenizer, like.model, like.mesh)
    thresholds = thresholds_of(like.config, best)
    return TrainedModel(*same, params, best["step"], thresholds=thresholds)


def load_run(workdir: Path, *, calibrated: bool = False, classifies: bool = True) -> TrainedModel:
    """Read the best checkpoint of a run directory, also beside its training.

    If `calibrated`, the temperature is the one that was fitted on validation. `classifies=False`
    also accepts pre-training runs.

    InputError: not a run directory, or nothing validated in it yet. RunError: damaged.
    """

    def read(directory: RunDirectory) -> TrainedModel:
        config = directory.read_classifier() if classifies else directory.read_config()
        classifier = make_classifier(config, load_run_tokenizer(directory))
        checkpoints, best = _find_best(directory)
        trained = restore_model(classifier, checkpoints, best)
        if not calibrated:
            return trained
        if "temperature" not in best:
            raise InputError(
                f"{directory.path} held out no texts (data.validation_fraction=0) to fit a "
                "temperature on: leave the probabilities as they are"
            )
        return calibrate(trained, best["temperature"])

    return _beside_training(RunDirectory(workdir), read)


def calibrate(trained: TrainedModel, temperature: Any) -> TrainedModel:
    """Return a model whose probabilities are at a temperature; it predicts the same classes."""
    thresholds = trained.thresholds
    if thresholds:
        thresholds = apply_temperature(np.array([thresholds]), temperature)[0].tolist()
    return dataclasses.replace(trained, temperature=temperature, thresholds=thresholds)


def cast_kernels(trained: TrainedModel) -> TrainedModel:
    """Return the same model with its encoder's kernels in the number type of the products.

    A step casts them otherwise; for one text on a CPU that takes a third of the time.
    """
    if "encoder" not in trained.params:
        return trained
    dtype = compute_dtype(trained.config.model.dtype)

    def cast(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    encoder = jax.tree_util.tree_map_with_path(cast, trained.params["encoder"])
    return dataclasses.replace(trained, params={**trained.params, "encoder": encoder})


def load_ensemble(workdirs: Sequence[Path], *, calibrated: bool = False) -> list[TrainedModel]:
    """Read several runs; InputError if their classes or kinds of labels differ."""
    models = [load_run(workdir, calibrated=calibrated) for workdir in workdirs]
    first = models[0].config
    for workdir, model in zip(workdirs, models, strict=True):
        if not classes_match(model.config, first):
            raise InputError(
                f"{workdirs[0]} has {describe_classes(first)}, {workdir} has "
                f"{describe_classes(model.config)}: runs with different classes cannot be averaged"
            )
    return models


def classes_match(first: Config, second: Config) -> bool:
    """Return whether two models have the same classes, and labels of the same kind."""
    same = same_classes(first.classes, second.classes)
    return same and kind_of(first.data) == kind_of(second.data)


def describe_classes(config: Config) -> str:
    """Return the classes for a message, as "the classes a, b" or "the labels a, b"."""
    return f"the {kind_of(config.data).noun} {list_classes(config.classes)}"


def best_sha256(run: Path) -> str:
    """Return the sha256 of a run's best parameters; does not wait for other processes."""

    def read(directory: RunDirectory) -> str:
        checkpoints, best = _find_best(directory)
        return tree_sha256(checkpoints.read(best["step"], "params"))

    return _beside_training(RunDirectory(run), read)


def _beside_training(
    directory: RunDirectory, read: Callable[[RunDirectory], Found], attempts: int = 20
) -> Found:
    """Return what `read` finds, trying again if the run or checkpoints were replaced meanwhile."""
    before = entries(directory.path, directory.checkpoints)
    try:
        directory.check_found()
        config = directory.config.stat()
        found = read(directory)
        if not os.path.samestat(config, directory.config.stat()):
            raise InputError(f"{directory.path} is started over again and again: let that end")
        return found
    except Exception:  # of whatever type: the training may have moved what was read
        if attempts == 1 or entries(directory.path, directory.checkpoints) == before:
            raise
    return _beside_training(directory, read, attempts - 1)


def _find_best(directory: RunDirectory) -> tuple[Checkpoints, dict[str, Any]]:
    """Return the checkpoints and the record of the best, which is intact; reads no parameter."""
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
    return checkpoints, best


def _check_intact(checkpoints: Checkpoints, step: int) -> None:
    if fault := checkpoints.fault(step):
        raise RunError(
            f"the checkpoint of step {step} in {checkpoints.directory} is damaged ({fault}): put "
            f"its files back, or delete {checkpoints.directory.parent} and train it again"
        )
