"""What a model's predictions tell: confusions, calibration, accuracy by length, mistakes."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, read_json

BINS = 10
REMEDY = "--mode=evaluate --split=test --workdir={} writes it again"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """One model's verdicts on the test set, a row of p_positive for each seed."""

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
    """Reads predictions.csv and lengths.csv of one model's runs, a directory a seed.

    Args:
      directories: of the runs.
      accuracies: their test accuracies; the files must give the same.

    Raises:
      InputError: a file is missing, half-written or of another split.
    """
    p_positive, first = [], None
    for directory, accuracy in zip(directories, accuracies, strict=True):
        path = directory / "predictions.csv"
        rows = _read_csv(path, ("id", "label", "predicted", "p_positive"))
        right = sum(row[1] == row[2] for row in rows) / max(len(rows), 1)
        found = [(row[0], row[1]) for row in rows]
        if abs(right - accuracy) > 1e-9 or (first is not None and found != first):
            raise InputError(
                f"{path} is not of this run's test set (half-written, or of another split): "
                + REMEDY.format(directory)
            )
        _check_sha256(directory, "predictions")
        first = found
        p_positive.append([float(row[3]) for row in rows])
    assert first is not None
    lengths = _read_csv(directories[0] / "lengths.csv", ("id", "words", "tokens", "truncated"))
    ids = tuple(row_id for row_id, _ in first)
    if tuple(row[0] for row in lengths) != ids:
        raise InputError(f"{directories[0]}/lengths.csv and predictions.csv differ in their ids")
    _check_sha256(directories[0], "lengths")
    words, tokens, truncated = np.array([row[1:] for row in lengths], np.int32).T
    return Predictions(
        ids=ids,
        labels=np.array([label for _, label in first], np.int32),
        p_positive=np.array(p_positive, np.float32),
        words=words,
        tokens=tokens,
        truncated=truncated == 1,
    )


def _check_sha256(directory: Path, name: str) -> None:
    env = read_json(directory / "env.json")
    check_checksum(directory / f"{name}.csv", env, REMEDY.format(directory))


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
    """Mean counts over the seeds, [label, predicted]."""
    matrix = np.zeros((2, 2))
    for p_positive in predictions.p_positive:
        np.add.at(matrix, (predictions.labels, (p_positive > 0.5).astype(int)), 1)
    return matrix / len(predictions.p_positive)


def hardest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """The reviews that are judged wrongly with the greatest confidence, all seeds averaged."""
    wrongness = np.abs(predictions.p_positive.mean(axis=0) - predictions.labels)
    order = np.argsort(-wrongness, kind="stable")
    return [int(place) for place in order[:count] if wrongness[place] > 0.5]


def calibration_bins(
    p_positive: Float32[np.ndarray, " reviews"], labels: Int32[np.ndarray, " reviews"]
) -> tuple[list[float], list[float], float]:
    """Returns mean p(positive) and share of positives in ten equal bins, and the calibration error.

    The error (ECE) is the mean distance of the two, weighted by the bins' sizes: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599.
    """
    places = np.minimum((p_positive * BINS).astype(int), BINS - 1)
    means, shares, error = [], [], 0.0
    for place in range(BINS):
        inside = places == place
        if inside.any():
            means.append(float(p_positive[inside].mean()))
            shares.append(float(labels[inside].mean()))
            error += abs(means[-1] - shares[-1]) * float(inside.mean())
    return means, shares, error
