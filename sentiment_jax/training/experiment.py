"""An experiment: a config made concrete, with data, tokenizer, network and task."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.stages import Wrapped
from jaxtyping import Float32, UInt64
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config, EncoderConfig
from sentiment_jax.data import batches, tokenization
from sentiment_jax.data.dataset import Dataset, load_dataset
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.texts import Texts
from sentiment_jax.data.unlabeled import load_text
from sentiment_jax.huggingface import hub
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.run_directory import RunDirectory, source_run
from sentiment_jax.storage.selection import Ranking
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.trained_model import Classifier


@dataclasses.dataclass(frozen=True)
class Experiment(Classifier):
    """A network and the data that it is trained and scored on."""

    task: "Task"
    encoded: dict[str, Encoded]
    statistics: dict[str, Any]
    # Of classification; "unlabeled" are for the teachers to label, last in the training split.
    texts: dict[str, Texts] = dataclasses.field(default_factory=dict)
    learned: dict[str, UInt64[np.ndarray, " _"]] = dataclasses.field(default_factory=dict)  # hashes
    pool: int = 0  # in a fold: the texts of all folds, which `epochs` is made for

    @functools.cached_property
    def objective(self) -> Objective:
        """What the training minimizes."""
        return self.task.make_objective(self)

    @property
    def epochs(self) -> int:
        """The passes over the training texts that the learning-rate schedule is made for."""
        if not self.config.optimizer.takes_steps:
            return 1
        steps = math.ceil((self.pool or len(self.encoded["train"])) / self.config.batch_size)
        return max(self.config.epochs, math.ceil(self.config.min_steps / steps))

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of the training split; 1 if no gradient steps are taken."""
        if not self.config.optimizer.takes_steps:
            return 1
        return math.ceil(len(self.encoded["train"]) / self.config.batch_size)

    def without_test(self) -> "Experiment":
        """Return what a training is given: it has no test split."""
        encoded = {name: split for name, split in self.encoded.items() if name != "test"}
        texts = {name: split for name, split in self.texts.items() if name != "test"}
        return dataclasses.replace(self, encoded=encoded, texts=texts)

    @property
    def packs(self) -> bool:
        """Whether rows of batches hold several texts."""
        return super().packs and not self.task.pretrains

    def plan_epoch(self, epoch: int) -> batches.Plan:
        """Plan the training batches of an epoch."""
        config = self.config
        return batches.plan_epoch(
            self.encoded["train"].lengths,
            batch_size=config.batch_size,
            buckets=self.buckets,
            seed=config.seed,
            epoch=epoch,
            packed=self.packs,
        )

    def training_batch(self, planned: batches.PlannedBatch) -> batches.Batch:
        """Fill a training batch."""
        return batches.make_batch(self.encoded["train"], planned, self.config.batch_size)


@dataclasses.dataclass(frozen=True)
class Validation:
    """The scores of held-out data, as in metrics.jsonl and result.json, and how long they took."""

    scores: dict[str, Any]  # loss (mean, nats), accuracy, examples, and what the task ranks by
    seconds: float
    more: dict[str, Any]  # what result.json has of the best epoch besides its scores
    probabilities: Float32[np.ndarray, "texts classes"] | None = None  # of labeled texts


@dataclasses.dataclass(frozen=True)
class Task:
    """What differs between learning from labels and pre-training: training/tasks/ has both.

    Whoever trains asks the task, and never which one it is.
    """

    pretrains: bool
    unit: str  # of the examples that are scored
    # Reads and encodes the data of a resolved config. A run's tokenizer and a dataset may be given.
    prepare: Callable[..., Experiment]
    make_objective: Callable[[Experiment], Objective]  # what the training minimizes
    make_train_step: Callable[[Experiment], Wrapped]  # jitted: (state, batch, rate) -> state, sums
    make_eval_step: Callable[[Experiment], Wrapped]  # jitted: (params, batch) -> outputs
    # Scores the validation split by these parameters, calls the function between batches.
    validate: Callable[[Experiment, Any, Callable[[], None]], Validation]
    make_ranking: Callable[[Config], Ranking]  # the order of epochs
    # Prints what is learned from, and warns of what would make the scores worthless.
    describe: Callable[[Experiment], None]
    describe_scores: Callable[[Config, Mapping[str, Any]], str]  # beside loss and accuracy
    # What validation decides for predictions, by labels and probabilities, as in result.json.
    fit: Callable[[Any, Any], dict[str, Any]] = lambda *_: {}
    # The weight of the mean loss, per class, in the fit of a last layer to start from.
    probe_weight: float = 10.0
    # What the run directory holds for the runs that start from it: file -> array.
    arrays: Callable[[RunDirectory, Experiment], dict[Path, np.ndarray]] = lambda *_: {}


def make_tokenizer(config: Config, dataset: Dataset) -> Tokenizer:
    """Return the pretrained weights' tokenizer, or one trained on the training split."""
    model = config.model
    data = config.data
    if run := source_run(model.pretrained):
        return tokenization.load_run_tokenizer(RunDirectory(run))
    if isinstance(model, EncoderConfig) and model.pretrained:
        folder, _ = hub.find_pretrained(model.pretrained, model.revision)
        return tokenization.load_pretrained_tokenizer(folder)
    texts = dataset.splits["train"].texts
    with progress_bar(None, "making the vocabulary"):
        vocabulary = ARCHITECTURES[model.name].vocabulary
        if vocabulary == "wordpiece":
            return tokenization.train_wordpiece(texts, vocabulary_size=data.vocabulary_size)
        if vocabulary == "ngrams":
            return tokenization.train_ngrams(texts)
        return tokenization.train_word_level(
            texts, data.vocabulary_size, data.min_frequency, data.ngrams
        )


def read_dataset(config: Config) -> Dataset:
    """Read what a run of a config learns from: labeled texts, in pre-training unlabeled text."""
    with progress_bar(None, "reading texts"):
        if config.pretrain.objective:
            return load_text(config.data, config.pretrain.text, config.pretrain.unlabeled)
        return load_dataset(config.data)
