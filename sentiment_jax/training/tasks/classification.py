"""Classification: learns from labeled texts, and from texts that teachers label."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.stages import Wrapped
from jaxtyping import Float32
from tokenizers import Tokenizer

from sentiment_jax.config.schema import CLASSES, Config, join_names
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.dataset import Dataset
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.kinds import ONE_CLASS, Labels, Probabilities
from sentiment_jax.data.ngrams import unigrams
from sentiment_jax.data.texts import Texts, is_rare, list_classes
from sentiment_jax.data.tokenization import unknown_id
from sentiment_jax.data.unlabeled import NOTHING, unlabeled_texts
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.run_directory import RunDirectory, find_teachers
from sentiment_jax.storage.selection import Ranking
from sentiment_jax.training import metrics, scoring, steps
from sentiment_jax.training.advice import describe_vocabulary
from sentiment_jax.training.experiment import (
    Experiment,
    Task,
    Validation,
    make_tokenizer,
    read_dataset,
)
from sentiment_jax.training.lineage import learned_text, warn_of_leakage
from sentiment_jax.training.objectives.classification import Classification
from sentiment_jax.training.trained_model import (
    classes_match,
    describe_classes,
    make_classifier,
    thresholds_of,
)

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the classes' shares, to choose thresholds from


def prepare(
    config: Config, tokenizer: Tokenizer | None = None, dataset: Dataset | None = None
) -> Experiment:
    """Read and encode texts, and the unlabeled text of students."""
    dataset = dataset or read_dataset(config)
    warn_of_leakage(config, dataset)
    config = with_classes(config, dataset.splits["train"])
    tokenizer = tokenizer or make_tokenizer(config, dataset)
    _check_teacher_classes(config)
    splits = dataset.splits
    if config.data.teacher:
        splits = {**splits, "unlabeled": unlabeled_texts(config.data, config.pretrain.text)}
    classifier = make_classifier(config, tokenizer)
    with terminal.progress_bar(sum(map(len, splits.values())), "encoding", unit="text") as bar:
        encoded = {name: classifier.encode(split, bar.update) for name, split in splits.items()}
    truncated = {
        name: round(split.truncated / max(len(split), 1), 4) for name, split in encoded.items()
    }
    statistics = {**dataset.statistics, "truncated": truncated}
    if config.data.teacher:  # they label the texts that come last
        labeled = encoded["train"]
        unlabeled = encoded.pop("unlabeled")
        encoded["train"] = Encoded(
            labels=np.concatenate([labeled.labels, np.zeros_like(unlabeled.labels)]),
            token_ids=np.concatenate([labeled.token_ids, unlabeled.token_ids]),
            offsets=np.concatenate([labeled.offsets, labeled.offsets[-1] + unlabeled.offsets[1:]]),
            truncated=labeled.truncated + unlabeled.truncated,
        )
        statistics |= {
            "unlabeled": len(unlabeled),
            "unlabeled_hash": splits["unlabeled"].texts_hash,
        }
    return Experiment(
        **vars(classifier),
        task=CLASSIFICATION,
        texts=splits,
        learned=learned_text(config, splits["train"], splits.get("unlabeled", NOTHING)),
        encoded=encoded,
        statistics=statistics,
    )


def make_objective(experiment: Experiment) -> Classification:
    """Return the cross-entropy, with weights if the classes have any."""
    output = experiment.output
    weights = ()
    if experiment.config.class_weights != "none":
        weights = output.balanced_weights(experiment.encoded["train"].labels)
    return Classification(weights, experiment.config.contrastive, output)


def make_train_step(experiment: Experiment) -> Wrapped:
    """Return the jitted step of the optimizer: steps.make_train_step."""
    config = experiment.config
    return steps.make_train_step(
        experiment.model, config.optimizer, experiment.objective, config.gradient_accumulation
    )


def fit(labels: Labels, probabilities: Probabilities) -> dict[str, Any]:
    """Return the temperature and, if a class is rare, thresholds that give it its due.

    They are the classes' shares to the power that has the best mean of accuracy and macro F1: logit
    adjustment (Menon et al., 2021, https://arxiv.org/abs/2007.07314). The probabilities stay.
    """
    found: dict[str, Any] = {"temperature": metrics.fit_temperature(probabilities, labels)}
    counts = labels.sum(axis=0)
    if is_rare(counts):
        shares = (counts + 1) / (counts + 1).sum()

        def score(power: float) -> float:
            made = ONE_CLASS.decide(probabilities, (shares**power).tolist())
            both = counts + made.sum(axis=0)
            f1 = 2 * (labels & made).sum(axis=0) / np.maximum(both, 1)
            return float(metrics.is_correct(labels, made).mean() + f1[both > 0].mean())

        if best := max(POWERS, key=score):
            found["thresholds"] = (shares**best / (shares**best).sum()).tolist()
    return found


def score_held_out(
    experiment: Experiment, labels: Labels, probabilities: Float32[np.ndarray, "texts classes"]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores, with what the ranking reads, and what else result.json has."""
    config = experiment.config
    kind = experiment.kind
    fitted = experiment.task.fit(labels, probabilities)
    thresholds = thresholds_of(config, fitted)
    measured = metrics.measure(kind, labels, probabilities, experiment.classes, thresholds)
    ranked = {n: measured[n] for n in (config.accuracy, config.select_by) if n in measured}
    scores = metrics.score_probabilities(kind, labels, probabilities, thresholds) | ranked
    return scores, {"metrics": measured, **fitted}


def validate(experiment: Experiment, params: Any, stop: Callable[[], None]) -> Validation:
    """Score the texts that are held out."""
    encoded = experiment.encoded["val"]
    found = scoring.score_texts(experiment, params, encoded, "validation", stop=stop)
    scores, more = score_held_out(experiment, encoded.labels, found.probabilities)
    scores["loss"] = found.scores["loss"]
    return Validation(scores, found.seconds, more, found.probabilities)


def describe_scores(config: Config, scores: Mapping[str, Any]) -> str:
    """Return the metric that the ranking begins with, unless it is the loss or the accuracy."""
    name = config.select_by
    if name in ("accuracy", "last") or (name == "loss" and config.data.rare):
        name = config.accuracy
    if name in ("loss", "accuracy"):
        return ""
    value = scores[name]  # None: the AUC if a class is absent
    return f" {name.replace('_', ' ')} {'undefined' if value is None else f'{value:.4f}'}"


def describe(experiment: Experiment) -> None:
    """Print classes, splits and where the texts are from."""
    data = experiment.config.data
    statistics = experiment.statistics
    classes = experiment.classes
    if classes != CLASSES:
        numbered = list_classes([f"{name} ({number})" for number, name in enumerate(classes)])
        if data.multi_label:
            numbered = f"{list_classes(classes)}; several per text, or none"
        elif len(classes) == 2:
            numbered += f"; {classes[1]} is positive"
        print_line("labels", numbered)
    for name, by_class in statistics["counts"].items():
        counts = list(by_class.values())
        if experiment.kind.is_binary(len(classes)):
            described = f"{counts[1]:>6,} {classes[1]}"
        elif len(classes) <= 5:
            described = ", ".join(f"{label}: {count:,}" for label, count in by_class.items())
        else:
            described = f"{len(classes)} classes of {min(counts):,} to {max(counts):,}"
        cut = f"{statistics['truncated'][name]:6.2%} truncated to {data.max_length} tokens"
        cut = "" if experiment.counts_ngrams else f", {cut} ({data.truncation})"
        count = f"{name:5} {statistics['reviews'][name]:>6,} texts"
        print_line("data" if name == "train" else "", f"{count}, {described}{cut}")
    if data.teacher:
        print(f"{'':14} {statistics['unlabeled']:>6,} unlabeled, labeled by {data.teacher}")
    print_line("", f"source {statistics['source']}, hash {statistics['data_hash'][:12]}")
    copies = ", ".join(f"{n} in {split}" for split, n in statistics["duplicates"].items())
    shared = statistics["shared"]["train_test"]
    print_line("", f"duplicates: {copies}; test texts also in train: {shared}")
    _warn_of_data(experiment)


CLASSIFICATION = Task(
    pretrains=False,
    unit="texts",
    prepare=prepare,
    make_objective=make_objective,
    make_train_step=make_train_step,
    make_eval_step=lambda of: scoring.make_eval_step(of.model, of.output),
    validate=validate,
    make_ranking=Ranking.of,
    describe=describe,
    describe_scores=describe_scores,
    fit=fit,
)


def with_classes(config: Config, texts: Texts) -> Config:
    """Return a config that says if a class is rare, and names the classes but for 0 and 1."""
    if texts.rare:
        config = replace_settings(config, {"data.rare": True})
    if config.data.labels or not texts.named:
        return config
    return replace_settings(config, {"data.labels": join_names(texts.classes)})


def _check_teacher_classes(config: Config) -> None:
    for teacher in find_teachers(config.data.teacher):
        theirs = RunDirectory(teacher).read_config()
        if not classes_match(theirs, config):
            raise InputError(
                f"data.teacher={teacher} has {describe_classes(theirs)}, the data have "
                f"{describe_classes(config)}"
            )


def _warn_of_data(experiment: Experiment) -> None:
    """Warn of what would make the scores worthless, with the figures."""
    statistics = experiment.statistics
    if contradictory := statistics["contradictory"]:
        what = "both labels" if len(experiment.classes) == 2 else "several labels"
        found = f"have {what}: nothing can be learned from them"
        if experiment.config.data.multi_label:
            found = "occur more than once, with different sets of labels"
        terminal.warn_once(f"{contradictory:,} texts {found}")
    for split in ("val",) if experiment.pool else ("val", "test"):  # a fold scores no test texts
        shared = statistics["shared"][f"train_{split}"]
        total = statistics["reviews"][split]
        if 0 < total < 100 * shared:  # IMDB's test set: 0.4 %
            terminal.warn_once(
                f"{shared:,} of {total:,} {split} texts are in train too: their score misleads"
            )
    unknown = unknown_id(experiment.tokenizer)
    if (share := np.mean(experiment.encoded["train"].tokens == unknown)) > 0.5:
        terminal.warn_once(f"{share:.0%} of the training tokens are unknown")
    texts = experiment.texts["train"].texts
    if sentence := describe_vocabulary(experiment.config, experiment.tokenizer, texts):
        terminal.warn_once(sentence)
    if (size := len(unigrams(experiment.tokenizer))) < 50:
        terminal.warn_once(f"the vocabulary has only {size:,} words")
