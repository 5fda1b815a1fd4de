"""Error analysis: confusion matrix, calibration, accuracy by length, hardest mistakes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas
from jaxtyping import Bool, Float, Float32, Int32
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum
from sentiment_jax.sweeps.plan import Trial

BINS = 10
REMEDY = "--mode=evaluate --split=test --workdir={} writes it again"
PREDICTIONS = {"id": str, "label": np.int32, "predicted": np.int32, "p_positive": float}
LENGTHS = {"id": str, "words": np.int32, "tokens": np.int32, "truncated": np.int32}


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


def read_predictions(trials: Sequence[Trial]) -> Predictions:
    """Read predictions.csv and lengths.csv of one model's tested trials; InputError if damaged."""
    frames: list[pandas.DataFrame] = []
    for trial in trials:
        path, remedy = trial.files.scored("test")[0], REMEDY.format(trial.directory)
        frame = _read_csv(path, PREDICTIONS)
        frames.append(frame)
        first = frames[0]
        right = float((frame["label"] == frame["predicted"]).sum()) / max(len(frame), 1)
        same = all(frame[name].equals(first[name]) for name in ("id", "label"))
        if abs(right - trial.content["test"]["accuracy"]) > 1e-9 or not same:
            raise InputError(
                f"{path} is not this run's test set (half-written, or of another split): {remedy}"
            )
        check_checksum(path, trial.env, remedy)
    path = trials[0].files.scored("test")[1]
    lengths = _read_csv(path, LENGTHS)
    if not lengths["id"].equals(first["id"]):
        raise InputError(f"{path} and predictions.csv differ in their ids")
    check_checksum(path, trials[0].env, REMEDY.format(trials[0].directory))
    return Predictions(
        ids=tuple(first["id"]),
        labels=first["label"].to_numpy(),
        p_positive=np.array([frame["p_positive"] for frame in frames], np.float32),
        words=lengths["words"].to_numpy(),
        tokens=lengths["tokens"].to_numpy(),
        truncated=lengths["truncated"].to_numpy() == 1,
    )


def _read_csv(path: Path, types: Mapping[str, type]) -> pandas.DataFrame:
    try:
        frame = pandas.read_csv(path, dtype=object, na_filter=False)
        if list(frame) != list(types):
            raise ValueError(f"columns {', '.join(types)} expected")
        return frame.astype(types)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"cannot read {path}: {reason}; half-written or not ours?") from error


def confusion(predictions: Predictions) -> Float[np.ndarray, "2 2"]:
    """Return mean counts over the seeds, [label, predicted]."""
    verdicts = predictions.p_positive > 0.5
    counts = [confusion_matrix(predictions.labels, seed, labels=(0, 1)) for seed in verdicts]
    return np.mean(counts, axis=0)


def hardest_mistakes(predictions: Predictions, count: int) -> list[int]:
    """Return the reviews judged wrongly with the greatest confidence, all seeds averaged."""
    wrongness = np.abs(predictions.p_positive.mean(axis=0) - predictions.labels)
    order = np.argsort(-wrongness, kind="stable")
    return [int(index) for index in order[:count] if wrongness[index] > 0.5]


def calibration_bins(
    p_positive: Float32[np.ndarray, "*seeds reviews"], labels: Int32[np.ndarray, " reviews"]
) -> tuple[list[float], list[float], float]:
    """Return mean p(positive) and share of positives in ten equal bins, and the calibration error.

    The error (ECE) is the mean distance of the two, weighted by the bins' sizes: Guo et al. (2017),
    https://arxiv.org/abs/1706.04599. Bins hold their lower edge; those of scikit-learn's
    `calibration_curve` hold the upper one, and it does not return their sizes.
    """
    labels = np.broadcast_to(labels, p_positive.shape)
    frame = pandas.DataFrame({"p": p_positive.ravel().astype(float), "positive": labels.ravel()})
    bin_of = np.minimum((p_positive.ravel() * BINS).astype(int), BINS - 1)
    bins = frame.groupby(bin_of)
    means, weights = bins.mean(), bins.size() / len(frame)
    error = float(((means.p - means.positive).abs() * weights).sum())
    return means.p.tolist(), means.positive.tolist(), error


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


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share: Wilson (1927).

    Written out, as the share is a mean over seeds: scipy's `binomtest` wants whole counts.
    """
    z = float(norm.ppf(0.975))
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(float(centre - half), mean), max(float(centre + half), mean)
