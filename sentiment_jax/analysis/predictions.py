"""Error analysis: confusion matrix, calibration, McNemar's test and the hardest mistakes."""

import dataclasses
import functools
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float, Float32

from sentiment_jax.config.schema import FEW_CLASSES
from sentiment_jax.data.kinds import LabelKind, Labels, kind_of
from sentiment_jax.data.labels import apply_temperature, average_thresholds
from sentiment_jax.data.predictions import read_predictions as read_split
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.metrics import HALF_DIGIT, is_correct, measure
from sentiment_jax.training.trained_model import thresholds_of

BINS = 10


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The predictions of one model for a split, of each seed."""

    ids: tuple[str, ...]
    order: str  # a hash of the texts in their order
    classes: tuple[str, ...]
    labels: Labels
    probabilities: Float32[np.ndarray, "seeds texts classes"]
    temperatures: tuple[Any, ...]  # found on each seed's validation split
    thresholds: tuple[Sequence[float], ...]  # found there as well
    kind: LabelKind

    @functools.cached_property
    def predicted(self) -> Bool[np.ndarray, "seeds texts classes"]:
        """Which classes each seed predicts for each text."""
        return np.array([*map(self.kind.decide, self.probabilities, self.thresholds)])

    @property
    def correct(self) -> Bool[np.ndarray, "seeds texts"]:
        """Which predictions are right."""
        return np.array([is_correct(self.labels, seed) for seed in self.predicted])


def read_predictions(trials: Sequence[Trial], split: str = "test") -> Predictions:
    """Read the predictions of one model's trials; InputError if a file is damaged."""
    config = trials[0].files.read_config()
    found = []
    orders = []
    for trial in trials:
        path = trial.files.predictions[split]
        remedy = f"--mode=evaluate --split={split} --workdir={trial.directory} writes it again"
        check_checksum(path, trial.env, remedy)
        found.append(read_split(path, trial.files.read_config()))  # its classes' spelling
        orders.append(trial.env[f"{path.stem}_order"])
    if len({*orders}) > 1:
        listed = ", ".join(str(trial.directory) for trial in trials)
        raise InputError(f"{listed} scored the test set in different orders: report them apart")
    ids, labels, _ = found[0]
    return Predictions(
        ids=ids,
        order=orders[0],
        classes=config.classes,
        labels=labels,
        probabilities=np.array([probabilities for _, _, probabilities in found]),
        temperatures=tuple(trial.content.get("temperature", 1.0) for trial in trials),
        thresholds=tuple(thresholds_of(config, trial.content) for trial in trials),
        kind=kind_of(config.data),
    )


def confusion(predictions: Predictions) -> Float[np.ndarray, "classes classes"]:
    """Return mean counts over the seeds, [label, predicted]."""
    labels = predictions.labels
    return np.mean([predictions.kind.confusion(labels, of) for of in predictions.predicted], axis=0)


def confused_pairs(predictions: Predictions) -> list[dict[str, Any]]:
    """Return the ten most frequent confusions, counts as means over the seeds."""
    counts = confusion(predictions)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:FEW_CLASSES]
    names = predictions.classes
    return [
        {"label": names[label], "predicted": names[predicted], "count": counts[label, predicted]}
        for label, predicted in zip(*np.unravel_index(order, counts.shape), strict=True)
        if counts[label, predicted]
    ]


def mean_metrics(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy and `metrics.measure`, averaged over the seeds."""
    labels = predictions.labels
    means: dict[str, Any] = {"accuracy": float(predictions.correct.mean())}
    seeds = zip(predictions.probabilities, predictions.thresholds, strict=True)
    kind = predictions.kind
    measured = [measure(kind, labels, p, predictions.classes, of) for p, of in seeds]
    intervals = [seed.pop("accuracy_interval") for seed in measured]
    if len(intervals) == 1:  # a mean has a standard deviation, and needs no interval
        means |= zip(("low (95 %)", "high (95 %)"), intervals[0], strict=True)
    return means | mean_scores(measured)


def mean_scores(seeds: Sequence[Any]) -> Any:
    """Return the mean over the seeds of each score, nested or not; None if one is undefined."""
    if isinstance(seeds[0], dict):
        return {name: mean_scores([seed[name] for seed in seeds]) for name in seeds[0]}
    return None if None in seeds else statistics.mean(seeds)


def hardest_mistakes(predictions: Predictions, count: int) -> pandas.DataFrame:
    """Tabulate the mistakes with the lowest p(label), probabilities averaged over seeds."""
    means = predictions.probabilities.mean(axis=0)
    thresholds = average_thresholds(predictions.thresholds, len(predictions.classes))
    kind = predictions.kind
    predicted = kind.decide(means, thresholds)
    p_label = kind.p_of_labels(means, predictions.labels).prod(axis=1)
    order = np.argsort(p_label, kind="stable")
    hardest = order[~is_correct(predictions.labels, predicted)[order]][:count]
    columns = {
        "id": [predictions.ids[i] for i in hardest],
        **{
            name: kind.cells(predictions.classes, labels[hardest])
            for name, labels in (("label", predictions.labels), ("predicted", predicted))
        },
        "p(predicted)": kind.p_of_labels(means, predicted).prod(axis=1)[hardest],
    }
    return pandas.DataFrame(columns, dtype=object)


def calibration_bins(
    p: Float32[np.ndarray, "*events"], true: Bool[np.ndarray, "*events"]
) -> tuple[pandas.DataFrame, float]:
    """Return mean p, share of true events and count in ten equal bins, and the calibration error.

    The expected calibration error (ECE) is the distance between mean and share, averaged with the
    counts as weights: Guo et al. (2017), https://arxiv.org/abs/1706.04599. Bins include their lower
    edge. (scikit-learn's `calibration_curve` includes the upper one and returns no counts.)
    """
    frame = pandas.DataFrame({"p": p.ravel().astype(float), "true": true.ravel()})
    groups = frame.groupby(np.minimum((p.ravel() * BINS).astype(int), BINS - 1))
    bins = groups.mean().assign(count=groups.size()).reindex(range(BINS))
    bins["count"] = bins["count"].fillna(0).astype(int)
    error = float(((bins.p - bins.true).abs() * bins["count"]).sum() / len(frame))
    return bins, error


def calibration(predictions: Predictions) -> tuple[pandas.DataFrame, float]:
    """Return the bins of the events of a kind of labels, all seeds together."""
    found = (predictions.probabilities, predictions.labels, predictions.predicted)
    return calibration_bins(*predictions.kind.events(*found))


def calibrate(predictions: Predictions) -> Predictions:
    """Apply each seed's temperature to its probabilities."""
    read = np.maximum(predictions.probabilities, HALF_DIGIT)
    seeds = zip(read, predictions.temperatures, strict=True)
    calibrated = np.array([apply_temperature(*seed) for seed in seeds], np.float32)
    return dataclasses.replace(predictions, probabilities=calibrated)
