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

from sentiment_jax.config.schema import class_names
from sentiment_jax.data.labels import decide, prediction_columns, written
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, safe_cell
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training.calibration import apply_temperature
from sentiment_jax.training.metrics import measure, wilson_interval

BINS = 10
REMEDY = "--mode=evaluate --split=test --workdir={} writes it again"
LENGTHS = {"id": str, "words": np.int32, "tokens": np.int32, "truncated": np.int32}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One model's verdicts on the test set, each seed's apart."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    probabilities: Float32[np.ndarray, "seeds reviews classes"]
    words: Int32[np.ndarray, " reviews"]
    tokens: Int32[np.ndarray, " reviews"]
    truncated: Bool[np.ndarray, " reviews"]

    @functools.cached_property
    def verdicts(self) -> Int64[np.ndarray, "seeds reviews"]:
        """The class that each seed judged each review to be of."""
        return decide(self.probabilities)

    @property
    def right(self) -> Float[np.ndarray, " reviews"]:
        """The share of seeds that judged each review rightly."""
        return (self.verdicts == self.labels).mean(axis=0)


def read_predictions(trials: Sequence[Trial]) -> Predictions:
    """Read predictions.csv and lengths.csv of one model's tested trials; InputError if damaged."""
    frames: list[pandas.DataFrame] = []
    classes = class_names(trials[0].files.read_config())
    names = {str(safe_cell(name)): i for i, name in enumerate(written(classes))}
    columns = prediction_columns(classes)
    types = {"id": str, "label": str, "predicted": str, **dict.fromkeys(columns[1:], float)}
    for trial in trials:
        path, remedy = trial.files.predictions["test"], REMEDY.format(trial.directory)
        frame = _read_csv(path, types)
        frames.append(frame)
        first = frames[0]
        right = float((frame["label"] == frame["predicted"]).sum()) / max(len(frame), 1)
        same = all(frame[name].equals(first[name]) for name in ("id", "label"))
        test = trial.content["test"]  # a score on another device may round a few verdicts away
        off = round(abs(right - test["accuracy"]) * len(frame))
        if len(frame) != test["examples"] or off > max(2, len(frame) / 1000) or not same:
            raise InputError(
                f"{path} is not this run's test set (half-written, or of another split): {remedy}"
            )
        check_checksum(path, trial.env, remedy)
    path = trials[0].files.lengths["test"]
    lengths = _read_csv(path, LENGTHS)
    if not lengths["id"].equals(first["id"]):
        raise InputError(f"{path} and predictions.csv differ in their ids")
    check_checksum(path, trials[0].env, REMEDY.format(trials[0].directory))
    given = np.array([frame[columns[1:]] for frame in frames], np.float32)
    return Predictions(
        ids=tuple(first["id"]),
        classes=classes,
        labels=first["label"].map(names).to_numpy(np.int32),
        probabilities=np.concatenate([1 - given, given], axis=2) if len(classes) == 2 else given,
        words=lengths["words"].to_numpy(),
        tokens=lengths["tokens"].to_numpy(),
        truncated=lengths["truncated"].to_numpy() == 1,
    )


def same_reviews(first: Predictions, second: Predictions) -> bool:
    """Return whether equal ids mean equal reviews, as far as labels and numbers of words tell.

    Rows in another order, and IMDB from a folder or from TFDS, are the same data by other ids.
    """
    one, other = ({*zip(p.ids, p.labels, p.words, strict=True)} for p in (first, second))
    return one == other


def _read_csv(path: Path, types: Mapping[str, type]) -> pandas.DataFrame:
    try:
        frame = pandas.read_csv(path, dtype=object, na_filter=False)
        if list(frame) != list(types):
            raise ValueError(f"columns {', '.join(types)} expected")
        return frame.astype(types)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {reason}; half-written or not ours?") from error


def confusion(predictions: Predictions) -> Float[np.ndarray, "classes classes"]:
    """Return mean counts over the seeds, [label, predicted]."""
    labels, numbers = predictions.labels, range(len(predictions.classes))
    counts = [confusion_matrix(labels, seed, labels=numbers) for seed in predictions.verdicts]
    return np.mean(counts, axis=0)


def mean_metrics(predictions: Predictions) -> dict[str, Any]:
    """Return `metrics.measure` of the verdicts, each figure the mean over the seeds."""
    labels, classes = predictions.labels, predictions.classes
    seeds = [measure(labels, seed, classes) for seed in predictions.probabilities]
    right = float(predictions.right.mean())
    means = _mean(seeds)
    return {"accuracy": right, **means} | {
        "accuracy_interval": [*wilson_interval(right, len(labels))]
    }


def _mean(seeds: Sequence[Any]) -> Any:
    first = seeds[0]
    if isinstance(first, dict):
        return {name: _mean([seed[name] for seed in seeds]) for name in first}
    return first if first is None else float(np.mean(seeds))


def mcnemar(
    first: Bool[np.ndarray, " reviews"], second: Bool[np.ndarray, " reviews"]
) -> tuple[int, int, float]:
    """Return how many reviews only the first judged rightly, how many only the second, and p.

    McNemar's test (1947) in its exact form: if neither model is better, each of these reviews is
    as likely to be of the one kind as of the other. p is two-sided.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    both = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, both).pvalue) if both else 1.0


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return seeds' mean accuracy and the ends of its 95 % interval, by Student's t (1908)."""
    mean, count = float(np.mean(values)), len(values)
    half = t.ppf(0.975, count - 1) * np.std(values, ddof=1) / count**0.5 if count > 1 else 0.0
    return mean, max(mean - float(half), 0.0), min(mean + float(half), 1.0)


def differ_significantly(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two scores {"accuracy", "examples"} differ by more than chance: z-test, p < .05.

    As if they were of different reviews: of the same ones, McNemar's test would find more.
    """
    counts = [score["examples"] for score in (first, second)]
    both = np.average([score["accuracy"] for score in (first, second)], weights=counts)
    error = np.sqrt(both * (1 - both) * sum(1 / count for count in counts))
    return bool(abs(first["accuracy"] - second["accuracy"]) > norm.ppf(0.975) * error)


def hardest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Return the reviews judged wrongly with the greatest confidence, all seeds averaged."""
    means = predictions.probabilities.mean(axis=0)
    wrongness = 1 - np.take_along_axis(means, predictions.labels[:, None], axis=1)[:, 0]
    wrong = decide(means) != predictions.labels
    return [int(i) for i in np.argsort(-wrongness, kind="stable") if wrong[i]][:count]


def calibration_bins(
    p: Float32[np.ndarray, "*seeds reviews"], true: Bool[np.ndarray, "*seeds reviews"]
) -> tuple[pandas.DataFrame, float]:
    """Return mean p, share of what is true and count in ten equal bins, and the calibration error.

    The error (ECE) is the mean distance of the two, weighted by the bins' sizes: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599. Bins hold their lower edge; those of scikit-learn's
    `calibration_curve` hold the upper one, and it does not return their sizes.
    """
    frame = pandas.DataFrame({"p": p.ravel().astype(float), "true": true.ravel()})
    groups = frame.groupby(np.minimum((p.ravel() * BINS).astype(int), BINS - 1))
    bins = groups.mean().assign(count=groups.size()).reindex(range(BINS))
    bins["count"] = bins["count"].fillna(0).astype(int)
    error = float(((bins.p - bins.true).abs() * bins["count"]).sum() / len(frame))
    return bins, error


def calibration(predictions: Predictions) -> tuple[pandas.DataFrame, float]:
    """Return the bins of p(positive); of more classes, of the verdicts' probability and rightness.

    So Guo et al. (2017) treat many classes.
    """
    labels, shape = predictions.labels, predictions.verdicts.shape
    if len(predictions.classes) == 2:
        return calibration_bins(
            predictions.probabilities[..., 1], np.broadcast_to(labels == 1, shape)
        )
    return calibration_bins(predictions.probabilities.max(axis=2), predictions.verdicts == labels)


def confidence(predictions: Predictions) -> list[tuple[str, float, float]]:
    """Return for each class judged, then for all: its name, mean probability, share that is right.

    Where the probability is the larger, these verdicts are over-confident.
    """
    p, right = predictions.probabilities.max(axis=2), predictions.verdicts == predictions.labels
    sides = [predictions.verdicts == i for i in range(len(predictions.classes))]
    named = zip([*predictions.classes, "all"], [*sides, right | True], strict=True)
    return [(name, float(p[of].mean()), float(right[of].mean())) for name, of in named if of.any()]


def calibrate(predictions: Predictions, temperatures: Sequence[float]) -> Predictions:
    """Return the predictions with each seed's probabilities at its temperature.

    What predictions.csv rounds to 0 counts as half of its last digit.
    """
    seeds = zip(np.maximum(predictions.probabilities, 5e-7), temperatures, strict=True)
    calibrated = np.array([apply_temperature(seed, kept) for seed, kept in seeds], np.float32)
    return dataclasses.replace(predictions, probabilities=calibrated)


def accuracy_by_length(models: Mapping[str, Predictions]) -> tuple[list[int], pandas.DataFrame]:
    """Return the edges of bins in words, and a frame of the accuracies in them.

    Truncated reviews stand apart; points of fewer than ten reviews, or 1 in 500, are left out. An
    accuracy's 95 % interval is from low to high.
    """
    words = np.concatenate([predictions.words for predictions in models.values()])
    bins = np.clip(len(words) // len(models) // 50, 1, 8)
    inner = np.quantile(words, np.linspace(0, 1, bins + 1)[:-1]).astype(int)
    edges = np.unique([*inner, words.max() + 1]).tolist()
    points = []
    for name, predictions in models.items():
        bin_of = np.digitize(predictions.words, edges) - 1
        right = pandas.Series(predictions.right)
        for (truncated, column), inside in right.groupby([predictions.truncated, bin_of]):
            if len(inside) >= max(10, len(right) / 500):
                mean = float(inside.to_numpy().mean())
                points.append((name, truncated, column, mean, *wilson_interval(mean, len(inside))))
    columns = ["model", "truncated", "bin", "accuracy", "low", "high"]
    return edges, pandas.DataFrame(points, columns=columns)
