"""What a model's predictions tell: confusions, calibration, accuracy by length, mistakes."""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from sentiment_jax import plots, writer
from sentiment_jax.errors import InputError

MARKERS = ("o", "s", "^", "D", "v", "P")
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
    recorded = writer.read_json(directory / "env.json").get(f"{name}_sha256")
    writer.check_sha256(directory / f"{name}.csv", recorded, REMEDY.format(directory))


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


def confusions(counts: Mapping[str, Float[np.ndarray, "2 2"]], path: Path) -> None:
    """Draws confusion matrices, rows the truth: mean number of reviews and share of the row.

    Args:
      counts: model -> [label, predicted].
      path: the PNG to write.
    """
    figure = plots.new_figure(2.9 * len(counts) + 0.4, 3.1)
    for axes, (name, matrix) in zip(
        figure.subplots(1, len(counts), squeeze=False)[0], counts.items(), strict=True
    ):
        shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for label in (0, 1):
            for predicted in (0, 1):
                share = shares[label, predicted]
                axes.text(
                    *(predicted, label, f"{matrix[label, predicted]:,.0f}\n{share:.1%}"),
                    ha="center",
                    va="center",
                    color="white" if share > 0.5 else "black",
                )
        axes.set_title(name, fontsize=10)
        axes.set_xticks((0, 1), ("negative", "positive"))
        axes.set_yticks((0, 1), ("negative", "positive"), rotation=90, va="center")
        axes.set(xlabel="predicted", ylabel="label")
    plots.save(figure, path)


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


def calibration(
    scores: Mapping[str, tuple[Float32[np.ndarray, " reviews"], Int32[np.ndarray, " reviews"]]],
    path: Path,
) -> None:
    """Draws the share of positive reviews over the probability that was given to them.

    Args:
      scores: model -> (p(positive), labels).
      path: the PNG to write.
    """
    figure = plots.new_figure(5.2, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for place, (name, (p_positive, labels)) in enumerate(scores.items()):
        means, shares, error = calibration_bins(p_positive, labels)
        axes.plot(
            means,
            shares,
            color=plots.MODEL_COLOURS[place % len(plots.MODEL_COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            label=f"{name} (calibration error {error:.3f})",
        )
    axes.set(xlabel="p(positive) that the model gave", ylabel="share of positive reviews")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    plots.save(figure, path)


def accuracy_by_length(
    reviews: Mapping[
        str,
        tuple[
            Int32[np.ndarray, " reviews"],
            Bool[np.ndarray, " reviews"],
            Float[np.ndarray, " reviews"],
        ],
    ],
    path: Path,
) -> None:
    """Draws accuracy over review length; whole reviews filled, truncated ones hollow and dashed.

    Bars are 95 % intervals (Wilson); points of fewer than ten reviews, or 1 in 500, are left out.

    Args:
      reviews: model -> (words, truncated, share of seeds that were right), a value a review.
      path: the PNG to write.
    """
    everything = np.concatenate([words for words, _, _ in reviews.values()])
    bins = np.clip(len(everything) // len(reviews) // 50, 1, 8)
    inner = np.quantile(everything, np.linspace(0, 1, bins + 1)[:-1]).astype(int)
    edges = np.unique([*inner, everything.max() + 1])
    figure = plots.new_figure(8, 4)
    axes = figure.subplots()
    for place, (name, (words, truncated, right)) in enumerate(reviews.items()):
        colour = plots.MODEL_COLOURS[place % len(plots.MODEL_COLOURS)]
        shift = 0.09 * (place - (len(reviews) - 1) / 2)
        for part, style, fill in ((~truncated, "-", colour), (truncated, "--", "white")):
            points = []
            for column in range(len(edges) - 1):
                inside = part & (words >= edges[column]) & (words < edges[column + 1])
                if inside.sum() >= max(10, len(words) / 500):
                    mean = float(right[inside].mean())
                    points.append((column + shift, mean, *_wilson(mean, int(inside.sum()))))
            if points:
                x, y, low, high = np.array(points).T
                axes.errorbar(
                    *(x, y, (y - low, high - y)),
                    color=colour,
                    linestyle=style,
                    marker=MARKERS[place % len(MARKERS)],
                    markerfacecolor=fill,
                    capsize=2,
                    label=f"{name}, {'whole' if style == '-' else 'truncated'}",
                )
    bounds = zip(edges[:-1], edges[1:] - 1, strict=True)
    axes.set_xticks(range(len(edges) - 1), [f"{low}–{high}" for low, high in bounds])
    axes.set(xlabel="words in the whole review", ylabel="test accuracy")
    axes.grid(axis="y", alpha=0.3)
    if axes.containers:
        axes.legend(frameon=False, fontsize=8)
    plots.save(figure, path)


def _wilson(mean: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson (1927)."""
    z = 1.96
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(centre - half, mean), max(centre + half, mean)
