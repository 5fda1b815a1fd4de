"""An experiment: a config made concrete, with reviews, tokenizer, network and objective."""

import dataclasses
import functools
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from sentiment_jax.config.schema import Config, EncoderConfig, join_names
from sentiment_jax.data import tokenization
from sentiment_jax.data.corpus import Corpus, hold_out, load_corpus
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import same_classes
from sentiment_jax.data.reviews import Reviews, stratified_sample
from sentiment_jax.data.unlabeled import unlabeled_reviews
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub
from sentiment_jax.models.registry import ARCHITECTURES
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.lineage import find_teachers, source_run, texts_hash, warn_of_leakage
from sentiment_jax.training.linear_baseline import Fold
from sentiment_jax.training.objectives.objective import Objective
from sentiment_jax.training.objectives.registry import make_objective
from sentiment_jax.training.trained_model import Classifier, make_classifier

EXAMPLE_TEXTS = (  # of reviews of films
    "One of the finest films I have seen in years: moving, funny and beautifully acted.",
    "A dull, predictable mess. I want my two hours back.",
    "The effects are great, but the story never comes alive and the jokes fall flat.",
    "I expected to hate it, and walked out smiling.",
)


@dataclasses.dataclass(frozen=True)
class Experiment(Classifier):
    """A classifier and the reviews that it is trained and scored on."""

    reviews: dict[str, Reviews]
    encoded: dict[str, Encoded]
    statistics: dict[str, Any]
    examples: tuple[str, ...] = EXAMPLE_TEXTS  # to classify after training
    epochs: int = 0  # found by a cross-validation; 0: the config's
    validated: dict[str, Any] = dataclasses.field(default_factory=dict)  # its scores
    unlabeled: Reviews | None = None  # texts for the teachers to label, last in the training split

    @functools.cached_property
    def folds(self) -> list[Fold]:
        """The indices to train on and to hold out in each fold of a cross-validation."""
        data = self.config.data
        numbers = range(1, data.folds + 1) if not data.fold else ()
        replaced = (dataclasses.replace(data, fold=number) for number in numbers)
        return [hold_out(self.reviews["train"], fold) for fold in replaced]

    @functools.cached_property
    def objective(self) -> Objective:
        """What the training minimizes."""
        return make_objective(self.config, self.tokenizer, self.encoded["train"], self.mesh)


def with_classes(config: Config, reviews: Reviews) -> Config:
    """Return a config that names the classes of the reviews, unless these are 0 and 1."""
    if config.data.labels or not reviews.named:
        return config
    data = dataclasses.replace(config.data, labels=join_names(reviews.classes))
    return dataclasses.replace(config, data=data)


def make_tokenizer(config: Config, corpus: Corpus) -> Tokenizer:
    """Return the pretrained weights' tokenizer, or one trained on the training split."""
    model = config.model
    data = config.data
    if run := source_run(model.pretrained):
        return RunDirectory(run).load_tokenizer()
    if isinstance(model, EncoderConfig) and model.pretrained:
        folder, _ = hub.find_pretrained(model.pretrained, model.revision)
        return tokenization.load_pretrained_tokenizer(folder)
    texts = corpus.splits["train"].texts
    with progress_bar(None, "making the vocabulary"):
        if ARCHITECTURES[model.name].vocabulary == "wordpiece":
            return tokenization.train_wordpiece(texts, vocabulary_size=data.vocabulary_size)
        return tokenization.train_word_level(
            texts, data.vocabulary_size, data.min_frequency, data.ngrams
        )


def read_corpus(config: Config) -> Corpus:
    """Read a config's reviews."""
    with progress_bar(None, "reading reviews"):
        return load_corpus(config.data)


def prepare_experiment(
    config: Config, tokenizer: Tokenizer | None = None, corpus: Corpus | None = None
) -> Experiment:
    """Read and encode the reviews and build the network of a resolved config.

    The tokenizer is a run's, or None to make the config's; the corpus is None to read it.
    """
    corpus = corpus or read_corpus(config)
    warn_of_leakage(config, corpus)
    config = with_classes(config, corpus.splits["train"])
    if tokenizer is None:
        tokenizer = make_tokenizer(config, corpus)
    _check_teacher_classes(config)
    if not config.data.teacher:
        return encode_experiment(config, tokenizer, corpus)
    unlabeled = unlabeled_reviews(config.data, config.pretrain.text)
    splits = {**corpus.splits, "unlabeled": unlabeled}
    experiment = encode_experiment(config, tokenizer, dataclasses.replace(corpus, splits=splits))
    return _join_unlabeled(experiment, unlabeled)


def encode_experiment(config: Config, tokenizer: Tokenizer, corpus: Corpus) -> Experiment:
    """Encode the splits of a corpus and build the network."""
    classifier = make_classifier(config, tokenizer)
    total = sum(map(len, corpus.splits.values()))
    with progress_bar(total, "encoding", unit="review") as bar:
        encoded = {
            name: classifier.encode(split, bar.update) for name, split in corpus.splits.items()
        }
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    order = {name: texts_hash(split) for name, split in corpus.splits.items()}
    examples: tuple[str, ...] = EXAMPLE_TEXTS
    if config.data.source == "csv" and "test" in corpus.splits:
        test = corpus.splits["test"]
        examples = stratified_sample(test, count=4, seed=config.data.split_seed).texts
    return Experiment(
        **vars(classifier),
        reviews=corpus.splits,
        encoded=encoded,
        statistics={**corpus.statistics, "truncated": truncated, "order_hash": order},
        examples=examples,
    )


def _check_teacher_classes(config: Config) -> None:
    for teacher in find_teachers(config.data.teacher):
        classes = RunDirectory(teacher).read_config().classes
        if not same_classes(classes, config.classes):
            raise InputError(
                f"data.teacher={teacher} has the classes {', '.join(classes)}, the data have "
                f"{', '.join(config.classes)}"
            )


def _join_unlabeled(experiment: Experiment, texts: Reviews) -> Experiment:
    """Append the unlabeled texts, their labels -1, to the training split."""
    encoded = dict(experiment.encoded)
    labeled = encoded["train"]
    unlabeled = encoded.pop("unlabeled")
    encoded["train"] = Encoded(
        ids=labeled.ids + unlabeled.ids,
        labels=np.concatenate([labeled.labels, np.full(len(unlabeled), -1, np.int32)]),
        token_ids=np.concatenate([labeled.token_ids, unlabeled.token_ids]),
        offsets=np.concatenate([labeled.offsets, labeled.offsets[-1] + unlabeled.offsets[1:]]),
        truncated=labeled.truncated + unlabeled.truncated,
    )
    counts = {"unlabeled": len(unlabeled), "unlabeled_hash": texts_hash(texts)}
    statistics = {**experiment.statistics, **counts}
    return dataclasses.replace(experiment, encoded=encoded, statistics=statistics, unlabeled=texts)
