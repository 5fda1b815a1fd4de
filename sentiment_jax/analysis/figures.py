"""Pictures made from finished runs. Everywhere: training red, validation blue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32

from sentiment_jax.analysis.predictions import calibration_bins

MARKERS = ("o", "s", "^", "D", "v", "P")


def confusions(counts: Mapping[str, Float[np.ndarray, "2 2"]], path: Path) -> None:
    """Draws confusion matrices, rows the truth: mean number of reviews and share of the row.

    Args:
      counts: model -> [label, predicted].
      path: the PNG to write.
    """
    figure = new_figure(2.9 * len(counts) + 0.4, 3.1)
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
    save(figure, path)


def calibration(
    scores: Mapping[str, tuple[Float32[np.ndarray, " reviews"], Int32[np.ndarray, " reviews"]]],
    path: Path,
) -> None:
    """Draws the share of positive reviews over the probability that was given to them.

    Args:
      scores: model -> (p(positive), labels).
      path: the PNG to write.
    """
    figure = new_figure(5.2, 4.6)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for place, (name, (p_positive, labels)) in enumerate(scores.items()):
        means, shares, error = calibration_bins(p_positive, labels)
        axes.plot(
            means,
            shares,
            color=MODEL_COLOURS[place % len(MODEL_COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            label=f"{name} (calibration error {error:.3f})",
        )
    axes.set(xlabel="p(positive) that the model gave", ylabel="share of positive reviews")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    save(figure, path)


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
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for place, (name, (words, truncated, right)) in enumerate(reviews.items()):
        colour = MODEL_COLOURS[place % len(MODEL_COLOURS)]
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
    save(figure, path)


def _wilson(mean: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share: Wilson (1927)."""
    z = 1.96
    centre = (mean + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(mean * (1 - mean) / count + z * z / (4 * count**2)) / (1 + z * z / count)
    return min(centre - half, mean), max(centre + half, mean)


TRAIN_COLOUR, VALIDATION_COLOUR = "tab:red", "tab:blue"
MODEL_COLOURS = ("tab:green", "tab:orange", "tab:purple", "tab:brown", "tab:olive", "tab:cyan")


def new_figure(width: float | int, height: float | int) -> Any:
    """A figure in inches, bound to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes a PNG so that a reader sees a whole one."""
    temporary = path.with_name(f".{path.name}")
    # No version of matplotlib in the file: equal pictures are equal bytes.
    figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
    temporary.replace(path)


def epoch_means(records: Sequence[Mapping[str, Any]], split: str, name: str) -> list[list[float]]:
    """Returns [epochs, means] of a metric, weighted by examples; epochs ascending."""
    sums: dict[int, list[float]] = {}
    for record in records:
        if record["split"] == split and record[name] is not None:
            total = sums.setdefault(record["epoch"], [0.0, 0.0])
            total[0] += record[name] * record["examples"]
            total[1] += record["examples"]
    epochs = sorted(sums)
    return [[float(e) for e in epochs], [sums[e][0] / sums[e][1] for e in epochs]]


def _draw_curves(axes: Any, records: Sequence[Mapping[str, Any]], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for split, colour, label in (
        ("train", TRAIN_COLOUR, "training"),
        ("val", VALIDATION_COLOUR, "validation"),
    ):
        epochs, means = epoch_means(records, split, name)
        axes.plot(epochs, means, color=colour, marker=".", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws loss and accuracy over epochs, the test score a star.

    Args:
      records: the lines of a metrics.jsonl.
      path: the PNG to write.
    """
    figure = new_figure(9, 3.6)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        _draw_curves(axes, records, name)
        for record in records:
            if record["split"] == "test":
                axes.plot(record["epoch"], record[name], "k*", label="test (best epoch)")
        axes.set(xlabel="epoch", ylabel=name)
        axes.legend(frameon=False)
    save(figure, path)


def stage_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draws one column of loss and accuracy for each value of an axis, scales shared.

    Args:
      runs: the value -> the lines of its metrics.jsonl.
      path: the PNG to write.
    """
    figure = new_figure(max(2.6 * len(runs) + 0.8, 4.5), 5)
    grid = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    for row, name in enumerate(("loss", "accuracy")):
        for axes, (value, records) in zip(grid[row], runs.items(), strict=True):
            _draw_curves(axes, records, name)
            if not records:
                axes.text(0.5, 0.5, "no epoch ended", ha="center", transform=axes.transAxes)
            if row == 0:
                axes.set_title(value, fontsize=10)
            else:
                axes.set_xlabel("epoch")
        grid[row][0].set_ylabel(name)
    grid[0][0].legend(frameon=False, fontsize=8)
    save(figure, path)


def heat_maps(
    values: Mapping[str, Mapping[tuple[float, int], float]],
    learning_rates: Sequence[float],
    batch_sizes: Sequence[int],
    path: Path,
) -> None:
    """Draws validation accuracy over learning rate x batch size, a panel for each optimizer.

    Args:
      values: optimizer -> (learning rate, batch size) -> accuracy; NaN for a failed run, nothing
        for one that was not made.
      learning_rates: rows, top to bottom.
      batch_sizes: columns.
      path: the PNG to write.
    """
    numbers = [v for panel in values.values() for v in panel.values() if np.isfinite(v)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    # One colour for all would make a difference of nothing look like one of everything.
    scale = {"vmin": low - 0.005, "vmax": high + 0.005, "cmap": "viridis"}
    figure = new_figure(
        max(1.1 * len(batch_sizes) + 0.5, 2.3) * len(values) + 1.4, 0.6 * len(learning_rates) + 1.3
    )
    image = None
    for column, axes in enumerate(figure.subplots(1, len(values), squeeze=False)[0]):
        name = list(values)[column]
        panel = np.full((len(learning_rates), len(batch_sizes)), np.nan)
        for row, rate in enumerate(learning_rates):
            for place, batch_size in enumerate(batch_sizes):
                value = values[name].get((rate, batch_size))
                panel[row, place] = np.nan if value is None else value
                finite = np.isfinite(panel[row, place])
                dark = finite and panel[row, place] - low < 0.6 * (high - low)
                words = f"{value:.4f}" if finite else "not run" if value is None else "failed"
                axes.text(
                    *(place, row, words),
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if dark else "black",
                )
        image = axes.imshow(panel, aspect="auto", **scale)
        axes.set_facecolor("0.9")
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(batch_sizes)), map(str, batch_sizes))
        axes.set_yticks(range(len(learning_rates)), [f"{rate:g}" for rate in learning_rates])
        axes.set_xlabel("batch size")
        if column:
            axes.set_yticklabels([])
        else:
            axes.set_ylabel("learning rate")
    figure.colorbar(image, ax=figure.axes, label="validation accuracy", pad=0.02)
    save(figure, path)


def seeds(scores: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path) -> None:
    """Draws every seed's test accuracy (filled) and validation accuracy (hollow), means as lines.

    Args:
      scores: model -> (validation accuracies, test accuracies), a value a seed.
      path: the PNG to write.
    """
    figure = new_figure(max(2.4 * len(scores) + 1, 4.5), 3.8)
    axes = figure.subplots()
    for place, (validation, test) in enumerate(scores.values()):
        colour = MODEL_COLOURS[place % len(MODEL_COLOURS)]
        for side, accuracies, fill in ((-0.14, validation, "none"), (0.14, test, colour)):
            # Spread sideways, or equal seeds would hide each other.
            offsets = np.linspace(-0.06, 0.06, len(accuracies)) if len(accuracies) > 1 else [0.0]
            axes.plot(
                place + side + np.asarray(offsets),
                accuracies,
                linestyle="none",
                marker="o",
                markersize=7,
                color=colour,
                markerfacecolor=fill,
            )
            mean = float(np.mean(accuracies))
            axes.hlines(mean, place + side - 0.1, place + side + 0.1, color=colour, linewidth=1)
            axes.annotate(
                *(f"{mean:.4f}", (place + 1.9 * side, mean)),  # outside: dots hide nothing
                ha="right" if side < 0 else "left",
                va="center",
                fontsize=8,
            )
    axes.plot([], [], "o", color="0.3", markerfacecolor="none", label="validation")
    axes.plot([], [], "o", color="0.3", label="test")
    axes.set_xticks(range(len(scores)), list(scores))
    axes.set(xlim=(-0.5, len(scores) - 0.5), ylabel="accuracy, a dot a seed")
    axes.margins(y=0.3)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
    save(figure, path)
