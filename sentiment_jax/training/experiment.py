"""From a resolved config to what every mode needs: reviews, tokenizer, model, parameters."""

import dataclasses
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sentiment_jax.config.schema import (
    CLASSES,
    EXAMPLE_TEXTS,
    DataConfig,
    OptimizerConfig,
    class_names,
    join_names,
)
from sentiment_jax.data import tokenization
from sentiment_jax.data.corpus import Corpus
from sentiment_jax.data.encoding import Encoded, check_encoded, concatenate, encode_corpus
from sentiment_jax.data.reviews import Reviews, stratified_sample
from sentiment_jax.data.unlabeled import texts_hash, unlabeled_reviews
from sentiment_jax.errors import InputError
from sentiment_jax.huggingface import hub
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training.lineage import (
    read_corpus,
    source_run,
    teachers,
    warn_of_leakage,
)
from sentiment_jax.training.trained_model import Classifier, make_classifier


@dataclasses.dataclass(frozen=True)
class Experiment(Classifier):
    """A config made concrete: a classifier and the reviews that it is trained and judged on."""

    encoded: dict[str, Encoded]
    words: dict[str, Any]  # of every whole review, split by split: int32 [reviews]
    statistics: dict[str, Any]
    examples: tuple[str, ...]  # to judge after training

    @property
    def optimizer(self) -> OptimizerConfig:
        """Return the config's optimizer."""
        return OptimizerConfig(**self.config.optimizer.to_dict())


def with_classes(config: ConfigDict, classes: tuple[str, ...]) -> ConfigDict:
    """Return a copy that names the classes found, unless they are negative and positive."""
    named = ConfigDict(config.to_dict())
    if not named.data.labels and classes != CLASSES:
        named.data.labels = join_names(classes)
    return named


def make_tokenizer(config: ConfigDict, corpus: Corpus) -> Any:
    """Return the pretrained weights' tokenizer, or one trained on the training split."""
    model, data, texts = config.model, config.data, corpus.splits["train"].texts
    if run := source_run(model.pretrained):
        return RunDirectory(run).load_tokenizer()
    if model.pretrained:
        folder, _ = hub.find_pretrained(model.pretrained, model.revision)
        return tokenization.load_pretrained_tokenizer(folder)
    if model.name != "lstm":
        return tokenization.train_wordpiece(texts, vocabulary_size=data.vocabulary_size)
    return tokenization.train_word_level(
        texts, data.vocabulary_size, data.min_frequency, data.ngrams, data.ngram_frequency
    )


def choose_examples(config: ConfigDict, test: Reviews) -> tuple[str, ...]:
    """Return the texts that a config names; for data of one's own, some of the test reviews."""
    named = config.example_texts
    if named == EXAMPLE_TEXTS and config.data.source == "csv":  # they speak of films
        named = ()
    return named or stratified_sample(test, count=4, seed=config.data.split_seed).texts


def prepare_experiment(
    config: ConfigDict,
    tokenizer: Any = None,
    only: str | None = None,
    corpus: Corpus | None = None,
) -> Experiment:
    """Read and encode the reviews and build the model of a resolved config.

    The tokenizer is a run's, or None to make the config's. Where `only` one split is encoded, the
    others are read for the data hash alone; a `corpus` was read before.
    """
    if config.pretrain.objective:
        raise InputError("pretrain.objective is what --mode=pretrain sets: leave it empty")
    data = DataConfig(**config.data.to_dict())
    corpus = corpus or read_corpus(config)
    if only is None:
        warn_of_leakage(config, corpus)
    config = with_classes(config, corpus.splits["train"].classes)
    if tokenizer is None:
        with progress_bar(None, "making the vocabulary"):
            tokenizer = make_tokenizer(config, corpus)
    for teacher in teachers(config) if only is None else ():
        told = class_names(RunDirectory(teacher).read_config())
        if told != class_names(config):
            known = ", ".join(told), ", ".join(class_names(config))
            raise InputError(f"data.teacher={teacher} tells {known[0]}, the labels are {known[1]}")
    classifier = make_classifier(config, tokenizer)
    examples = choose_examples(config, corpus.splits["test"])
    if only is not None:
        corpus = dataclasses.replace(corpus, splits={only: corpus.splits[only]})
    elif data.unlabeled:
        unlabeled = unlabeled_reviews(data, config.pretrain.text)
        corpus = dataclasses.replace(corpus, splits={**corpus.splits, "unlabeled": unlabeled})
    total = sum(map(len, corpus.splits.values()))
    with progress_bar(total, "encoding", unit="review") as bar:
        encoded = encode_corpus(corpus, tokenizer, data, bar.update)
        check_encoded(encoded, tokenizer.get_vocab_size(), len(classifier.classes))
        words = {
            name: np.array([len(text.split()) for text in split.texts], np.int32)
            for name, split in corpus.splits.items()
        }
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    statistics = {**corpus.statistics, "truncated": truncated}
    if "unlabeled" in encoded:
        more = encoded.pop("unlabeled")
        more = dataclasses.replace(more, labels=np.full(len(more), -1, np.int32))
        encoded["train"] = concatenate(encoded["train"], more)
        statistics |= {"unlabeled": len(more), "unlabeled_hash": texts_hash(unlabeled)}
    return Experiment(
        **vars(classifier), encoded=encoded, words=words, statistics=statistics, examples=examples
    )
