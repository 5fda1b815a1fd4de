"""Error analysis: confusion matrix, calibration, accuracy by length, hardest mistakes."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from jaxtyping import Bool, Float, Float32, Int32
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, read_json
from sentiment_jax.storage.run_directory import RunDirectory

BINS = 10
REMEDY = "--mode=evaluate --split=test --workdir={} writes it again"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One model's verdicts on the test set, one row of p_positive per seed."""

    ids: tuple[str, ...]
    labels: Int32[np.ndarray, " reviews"]
    p_positive: Float32[np.ndarray, "seeds reviews"]
    words: Int32[np.ndarray, " reviews"]
    tokens: Int32[np.ndarray, " reviews"]
    truncated: Bool[np.ndarray, " reviews"]

    @property
    def right(self) -> Float[np.ndarray, " reviews"]:
        """The share of seeds that judged each review rightly."""
        return ((self.p_positive > 0.5) == (self.labels == 1)).mean(axis=0)


def read_predictions(directories: Sequence[Path], accuracies: Sequence[float]) -> Predictions:
    """Read predictions.csv and lengths.csv of one model's runs, one directory per seed.

    Args:
      directories: of the runs.
      accuracies: their test accuracies; the files must give the same.

    Raises:
      InputError: a file is missing, half-written or of another split.
    """
    p_positive, first = [], None
    for directory, accuracy in zip(directories, accuracies, strict=True):
        path = RunDirectory(directory).scored("test")[0]
        rows = _read_csv(path, ("id", "label", "predicted", "p_positive"))
        right = sum(row[1] == row[2] for row in rows) / max(len(rows), 1)
        found = [(row[0], row[1]) for row in rows]
        if abs(right - accuracy) > 1e-9 or (first is not None and found != first):
            raise InputError(
                f"{path} is not of this run's test set (half-written, or of another split): "
                + REMEDY.format(directory)
            )
        _check(path)
        first = found
        p_positive.append([float(row[3]) for row in rows])
    assert first is not None
    path = RunDirectory(directories[0]).scored("test")[1]
    lengths = _read_csv(path, ("id", "words", "tokens", "truncated"))
    ids = tuple(row_id for row_id, _ in first)
    if tuple(row[0] for row in lengths) != ids:
        raise InputError(f"{path} and predictions.csv differ in their ids")
    _check(path)
    words, tokens, truncated = np.array([row[1:] for row in lengths], np.int32).T
    return Predictions(
        ids=ids,
        labels=np.array([label for _, label in first], np.int32),
        p_positive=np.array(p_positive, np.float32),
        words=words,
        tokens=tokens,
        truncated=truncated == 1,
    )


def _check(path: Path) -> None:
    check_checksum(path, read_json(RunDirectory(path.parent).env), REMEDY.format(path.parent))


def _read_csv(path: Path, header: Sequence[str]) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            first, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if first != list(header) or any(len(row) != len(header) for row in rows):
        raise InputError(
            f"{path} is half-written or not ours: columns {', '.join(header)} expected"
        )
    return rows


def confusion(predictions: Predictions) -> Float[np.ndarray, "2 2"]:
    """Return mean counts over the seeds, [label, predicted]."""
    counts = [
        confusion_matrix(predictions.labels, p_positive > 0.5, labels=(0, 1))
        for p_positive in predictions.p_positive
    ]
    return np.mean(counts, axis=0)


def hardest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Return the reviews judged wrongly with the greatest confidence, all seeds averaged."""
    wrongness = np.abs(predictions.p_positive.mean(axis=0) - predictions.labels)
    order = np.argsort(-wrongness, kind="stable")
    return [int(index) for index in order[:count] if wrongness[index] > 0.5]


def calibration_bins(
    p_positive: Float32[np.ndarray, " reviews"], labels: Int32[np.ndarray, " reviews"]
) -> tuple[list[float], list[float], float]:
    """Return mean p(positive) and share of positives in ten equal bins, and the calibration error.

    The error (ECE) is the mean distance of the two, weighted by the bins' sizes: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599. Bins hold their lower edge; those of scikit-learn's
    `calibration_curve` hold the upper one, and it does not return their sizes.
    """
    bin_of = np.minimum((p_positive * BINS).astype(int), BINS - 1)
    frame = pandas.DataFrame({"p": p_positive.astype(float), "positive": labels})
    bins = frame.groupby(bin_of)
    means, weights = bins.mean(), bins.size() / len(frame)
    error = float(((means.p - means.positive).abs() * weights).sum())
    return means.p.tolist(), means.positive.tolist(), error


def accuracy_by_length(models: Mapping[str, Predictions]) -> tuple[list[int], pandas.DataFrame]:
    """Return accuracies by review length, truncated reviews apart.

    Points of fewer than ten reviews, or 1 in 500, are left out.

    Returns:
      (edges of the bins in words, a frame with a row for each point: model, truncated, bin,
      accuracy, and its 95 % interval from low to high).
    """
    words = np.concatenate([predictions.words for predictions in models.values()])
    bins = np.clip(len(words) // len(models) // 50, 1, 8)
    inner = np.quantile(words, np.linspace(0, 1, bins + 1)[:-1]).astype(int)
    edges = np.unique([*inner, words.max() + 1]).tolist()
    points: list[tuple[Any, ...]] = []
    for name, predictions in models.items():
        bin_of = np.digitize(predictions.words, edges) - 1
        right = pandas.Series(predictions.right)
        for (truncated, column), inside in right.groupby([predictions.truncated, bin_of]):
            if len(inside) >= max(10, len(right) / 500):
                mean = float(inside.to_numpy().mean())
                points.append((name, truncated, column, mean, *wilson_interval(mean, len(inside))))
    columns = ["model", "truncated", "bin", "accuracy", "low", "high"]
    return edges, pandas.DataFrame(points, columns=columns)


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: Wilson (1927).

    Written out, as the share is a mean over seeds: scipy's `binomtest` wants whole counts.
    """
    z = float(norm.ppf(0.975))
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(float(centre - half), mean), max(float(centre + half), mean)
