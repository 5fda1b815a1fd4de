"""Error analysis: confusion matrix, calibration, McNemar's test, accuracy by length, mistakes."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float, Float32, Int32, Int64
from scipy.stats import binomtest, norm, t
from sklearn.metrics import confusion_matrix

from sentiment_jax.data.labels import decide
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, safe_cell
from sentiment_jax.storage.run_directory import class_cells, prediction_columns
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.calibration import apply_temperature
from sentiment_jax.training.metrics import measure, wilson_interval

BINS = 10


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One model's predictions on the test set, for each seed."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    probabilities: Float32[np.ndarray, "seeds reviews classes"]
    words: Int32[np.ndarray, " reviews"]
    tokens: Int32[np.ndarray, " reviews"]
    truncated: Bool[np.ndarray, " reviews"]

    @functools.cached_property
    def predicted(self) -> Int64[np.ndarray, "seeds reviews"]:
        """The class that each seed predicts for each review."""
        return decide(self.probabilities)

    @property
    def correct(self) -> Float[np.ndarray, " reviews"]:
        """The share of seeds whose prediction for a review is correct."""
        return (self.predicted == self.labels).mean(axis=0)


def read_predictions(trials: Sequence[Trial]) -> Predictions:
    """Read predictions.csv and lengths.csv of one model's tested trials; InputError if damaged."""
    classes = trials[0].files.read_config().classes
    names = {str(safe_cell(name)): i for i, name in enumerate(class_cells(classes))}
    columns = prediction_columns(classes)
    types = {"id": str, "label": str, "predicted": str, **dict.fromkeys(columns[1:], float)}
    frames = [_read_csv(trial, trial.files.predictions["test"], types) for trial in trials]
    numbers = {"id": str, **dict.fromkeys(("words", "tokens", "truncated"), np.int32)}
    lengths = _read_csv(trials[0], trials[0].files.lengths["test"], numbers)
    for trial, frame in zip(trials, frames, strict=True):
        if not frame["id"].equals(lengths["id"]):
            raise InputError(
                f"{trial.directory} and {trials[0].directory} scored the test set in another "
                "order: report them apart"
            )
    given = np.array([frame[columns[1:]] for frame in frames], np.float32)
    return Predictions(
        ids=tuple(lengths["id"]),
        classes=classes,
        labels=frames[0]["label"].map(names).to_numpy(np.int32),
        probabilities=np.concatenate([1 - given, given], axis=2) if len(classes) == 2 else given,
        words=lengths["words"].to_numpy(),
        tokens=lengths["tokens"].to_numpy(),
        truncated=lengths["truncated"].to_numpy() == 1,
    )


def _read_csv(trial: Trial, path: Path, types: Mapping[str, type]) -> pandas.DataFrame:
    remedy = f"--mode=evaluate --split=test --workdir={trial.directory} writes it again"
    check_checksum(path, trial.env, remedy)
    return pandas.read_csv(path, dtype=object, na_filter=False).astype(types)


def same_reviews(first: Predictions, second: Predictions) -> bool:
    """Return whether equal ids mean equal reviews, by their labels and numbers of words.

    Equal data may have different ids: rows in another order, or IMDB from a folder and from TFDS.
    """
    reviews = {*zip(first.ids, first.labels, first.words, strict=True)}
    return reviews == {*zip(second.ids, second.labels, second.words, strict=True)}


def confusion(predictions: Predictions) -> Float[np.ndarray, "classes classes"]:
    """Return mean counts over the seeds, [label, predicted]."""
    numbers = range(len(predictions.classes))
    labels = predictions.labels
    counts = [confusion_matrix(labels, seed, labels=numbers) for seed in predictions.predicted]
    return np.mean(counts, axis=0)


def mean_metrics(predictions: Predictions) -> dict[str, Any]:
    """Return accuracy, its 95 % interval and `metrics.measure`, averaged over the seeds."""
    labels = predictions.labels
    accuracy = float(predictions.correct.mean())
    low, high = wilson_interval(accuracy, len(labels))
    means = _mean([measure(labels, p, predictions.classes) for p in predictions.probabilities])
    del means["accuracy_interval"]
    return {"accuracy": accuracy, "low (95 %)": low, "high (95 %)": high, **means}


def _mean(seeds: Sequence[Any]) -> Any:
    first = seeds[0]
    if isinstance(first, dict):
        return {name: _mean([seed[name] for seed in seeds]) for name in first}
    return first if first is None else float(np.mean(seeds))


def mcnemar(
    first: Bool[np.ndarray, " reviews"], second: Bool[np.ndarray, " reviews"]
) -> tuple[int, int, float]:
    """Return how many reviews only the first model classified correctly, only the second, and p.

    McNemar's test (1947) in its exact, two-sided form: if neither model is better, each of these
    reviews belongs to either group with probability one half.
    """
    only_first = int((first & ~second).sum())
    only_second = int((second & ~first).sum())
    total = only_first + only_second
    p = float(binomtest(only_first, total).pvalue) if total else 1.0
    return only_first, only_second, p


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean accuracy of several seeds and its 95 % interval, by Student's t (1908)."""
    mean = float(np.mean(values))
    error = np.std(values, ddof=1) / len(values) ** 0.5
    half = float(t.ppf(0.975, len(values) - 1) * error)
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def differ_significantly(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two scores {"accuracy", "examples"} differ by a z-test, p < .05.

    It treats the two sets of reviews as independent. On the same reviews, McNemar's test is more
    powerful.
    """
    counts = [score["examples"] for score in (first, second)]
    pooled = np.average([score["accuracy"] for score in (first, second)], weights=counts)
    error = np.sqrt(pooled * (1 - pooled) * sum(1 / count for count in counts))
    return bool(abs(first["accuracy"] - second["accuracy"]) > norm.ppf(0.975) * error)


def hardest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Return the wrong predictions with the lowest p(label), probabilities averaged over seeds."""
    means = predictions.probabilities.mean(axis=0)
    p_label = np.take_along_axis(means, predictions.labels[:, None], axis=1)[:, 0]
    order = np.argsort(p_label, kind="stable")
    wrong = decide(means) != predictions.labels
    return order[wrong[order]][:count].tolist()


def calibration_bins(
    p: Float32[np.ndarray, "*seeds reviews"], true: Bool[np.ndarray, "*seeds reviews"]
) -> tuple[pandas.DataFrame, float]:
    """Return mean p, share of true events and count in ten equal bins, and the calibration error.

    The expected calibration error (ECE) is the mean distance between the first two, weighted by the
    count: Guo et al. (2017), https://arxiv.org/abs/1706.04599. Bins include their lower edge.
    (scikit-learn's `calibration_curve` includes the upper one and returns no counts.)
    """
    frame = pandas.DataFrame({"p": p.ravel().astype(float), "true": true.ravel()})
    groups = frame.groupby(np.minimum((p.ravel() * BINS).astype(int), BINS - 1))
    bins = groups.mean().assign(count=groups.size()).reindex(range(BINS))
    bins["count"] = bins["count"].fillna(0).astype(int)
    error = float(((bins.p - bins.true).abs() * bins["count"]).sum() / len(frame))
    return bins, error


def calibration(predictions: Predictions) -> tuple[pandas.DataFrame, float]:
    """Return the bins of p(positive), or of the predicted class's probability if there are more.

    The latter is how Guo et al. (2017) treat many classes.
    """
    predicted = predictions.predicted
    if len(predictions.classes) == 2:
        positive = np.broadcast_to(predictions.labels == 1, predicted.shape)
        return calibration_bins(predictions.probabilities[..., 1], positive)
    confidences = predictions.probabilities.max(axis=2)
    return calibration_bins(confidences, predicted == predictions.labels)


def confidence(predictions: Predictions) -> list[tuple[str, float, float]]:
    """Return name, mean probability and share correct for each predicted class, then for all.

    Predictions whose probability exceeds the share that is correct are over-confident.
    """
    p = predictions.probabilities.max(axis=2)
    correct = predictions.predicted == predictions.labels
    groups = {name: predictions.predicted == i for i, name in enumerate(predictions.classes)}
    groups["all"] = np.ones_like(correct)
    return [
        (name, float(p[chosen].mean()), float(correct[chosen].mean()))
        for name, chosen in groups.items()
        if chosen.any()
    ]


def calibrate(predictions: Predictions, temperatures: Sequence[float]) -> Predictions:
    """Apply each seed's temperature to its probabilities.

    A probability that predictions.csv rounds to 0 counts as half of its last digit.
    """
    seeds = zip(np.maximum(predictions.probabilities, 5e-7), temperatures, strict=True)
    calibrated = np.array([apply_temperature(*seed) for seed in seeds], np.float32)
    return dataclasses.replace(predictions, probabilities=calibrated)


def accuracy_by_length(models: Mapping[str, Predictions]) -> tuple[list[int], pandas.DataFrame]:
    """Return the edges of bins in words, and the accuracies in them with 95 % intervals.

    Truncated reviews have points of their own. Points of fewer than ten reviews, or 1 in 500, are
    left out.
    """
    words = np.concatenate([predictions.words for predictions in models.values()])
    bins = np.clip(len(words) // len(models) // 50, 1, 8)
    inner = np.quantile(words, np.linspace(0, 1, bins + 1)[:-1]).astype(int)
    edges = np.unique([*inner, words.max() + 1]).tolist()
    points = []
    for name, predictions in models.items():
        bin_of = np.digitize(predictions.words, edges) - 1
        correct = pandas.Series(predictions.correct)
        for (truncated, column), inside in correct.groupby([predictions.truncated, bin_of]):
            if len(inside) >= max(10, len(correct) / 500):
                mean = float(inside.to_numpy().mean())
                points.append((name, truncated, column, mean, *wilson_interval(mean, len(inside))))
    columns = ["model", "truncated", "bin", "accuracy", "low", "high"]
    return edges, pandas.DataFrame(points, columns=columns)
