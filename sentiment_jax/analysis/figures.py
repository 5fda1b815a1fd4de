"""Figures of finished runs. Everywhere: training red, validation blue.

All are one column wide: side by side on a desktop, one below the other and still readable on a
phone. Training draws its curves with this module, so slow imports wait until they are needed.
"""

import contextlib
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sentiment_jax.storage.files import replacing
from sentiment_jax.storage.selection import BY_ACCURACY, Ranking
from sentiment_jax.training.metrics import wilson_interval

# The palette of Okabe and Ito (2008): distinct for the color-blind, and in lightness.
RED = "#cc3311"  # theirs is an orange
BLUE = "#0072b2"
COLORS = (BLUE, "#e69f00", "#009e73", RED, "#cc79a7", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 4.8  # inches
MIN_COUNT = 10  # predictions: a bin with fewer is not drawn
RANGE = 0.05  # of a heat map: everything further below the best has the palest color
STYLE: Any = {
    "text.parse_math": False,  # a run's name may hold dollar signs
    "font.size": 10,
    "axes.titlesize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "grid.alpha": 0.3,
}
BELOW = "outside lower center"  # where legends stand
CENTERED = {"ha": "center", "va": "center"}
Records = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


@contextlib.contextmanager
def panels(path: Path, width: float | int, height: float | int, **grid: Any) -> Iterator[Any]:
    """Yield the axes [rows, columns] of a new figure, sizes in inches, and save it as a PNG.

    `grid` holds options of `Figure.subplots`. Equal figures have equal bytes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE), replacing(path) as temporary:
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure.subplots(squeeze=False, **grid)
        # The metadata would name the version of matplotlib.
        figure.savefig(temporary, dpi=180, format="png", metadata={"Software": None})


def shorten(text: str, length: int) -> str:
    """Return a text of at most `length` characters, an ellipsis in its middle if it was longer."""
    kept = length - 1
    return text if len(text) <= length else f"{text[: kept - kept // 2]}…{text[-(kept // 2) :]}"


def fit(text: str, width: int, lines: int = 2) -> str:
    """Break a text into lines of `width` characters, and shorten it if they are too many."""
    wrapped = textwrap.wrap(text, width, break_on_hyphens=False)
    if len(wrapped) > lines:
        wrapped = textwrap.wrap(shorten(text, width * lines - width // 2), width)
    return "\n".join(wrapped[:lines] or [text])


def _style(index: int) -> dict[str, str]:
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def confusions(
    counts: Mapping[str, Float[np.ndarray, "classes classes"]], classes: Sequence[str], path: Path
) -> None:
    """Draw each model's confusion matrix [label, predicted]: mean counts and shares of the row."""
    size = min(9, 40 / len(classes))
    height = min(0.7 * len(classes) + 1.1, 3.9) + 0.5 * (max(map(len, classes)) > 13)
    ticks = range(len(classes))
    labels = [fit(name, 13, lines=3 if len(classes) <= 6 else 1) for name in classes]
    with panels(path, WIDTH, height * len(counts), nrows=len(counts)) as rows:
        for axes, (name, matrix) in zip(rows[:, 0], counts.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            for (label, predicted), share in np.ndenumerate(shares):
                text = f"{matrix[label, predicted]:,.0f}\n{share:.1%}"
                color = "white" if share > 0.6 else "black"
                axes.text(predicted, label, text, color=color, fontsize=size, **CENTERED)
            axes.set_title(fit(name, 40))
            axes.set_xticks(ticks, labels, rotation=90 if len(classes) > 3 else 0, fontsize=size)
            axes.set_yticks(ticks, labels, fontsize=size)
            axes.set(xlabel="predicted", ylabel="label")


def accuracies(
    models: Mapping[str, float],
    examples: int,
    guessing: float,
    path: Path,
    *,
    label: str = "test accuracy",
    chosen: str = "",
) -> None:
    """Draw accuracies with their 95 % intervals, the first above; guessing is a dashed line.

    If one is `chosen`, the marks of the others are hollow.
    """
    with panels(path, WIDTH, 0.3 * len(models) + 0.9) as ((axes,),):
        for place, (name, accuracy) in enumerate(models.items()):
            low, high = wilson_interval(accuracy, examples)
            color = BLUE if chosen in ("", name) else "white"
            axes.plot([low, high], [place, place], color=BLUE, marker="|")
            axes.plot(accuracy, place, color=BLUE, marker="o", markerfacecolor=color)
        axes.axvline(guessing, color="0.5", linestyle="--")
        axes.set_yticks(range(len(models)), [shorten(name, 24) for name in models])
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_xlabel(label)
        axes.grid(axis="x")


def calibration(
    curves: Mapping[str, Sequence[tuple[Any, float]]], labels: tuple[str, str], path: Path
) -> None:
    """Draw each model's `predictions.calibration_bins` and, below, the number of predictions.

    A second curve of a model, hollow and dotted, has its calibrated probabilities. `labels` name
    the axes.
    """
    shape = {"nrows": 2, "sharex": True, "height_ratios": (3, 1)}
    height = 5.1 + 0.17 * sum(map(len, curves.values()))
    width = 0.09 / len(curves)
    with panels(path, WIDTH, height, **shape) as ((axes,), (below,)):
        axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        for index, (model, lines) in enumerate(curves.items()):
            style = {**_style(index), "markersize": 5}
            name = shorten(model.lstrip("_"), 48)  # or Matplotlib leaves it out of the legend
            for bins, error in lines:
                kept = bins[bins["count"] >= MIN_COUNT]
                axes.plot(kept["p"], kept["true"], label=f"{name} (error {error:.3f})", **style)
                style |= {"linestyle": ":", "markerfacecolor": "white"}
                name = "at its temperature"
            bins, _ = lines[0]
            centers = (bins.index + 0.5) / len(bins) + width * (index - (len(curves) - 1) / 2)
            below.bar(centers, bins["count"], width, color=_style(index)["color"])
        axes.set(ylabel=labels[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        below.set(xlabel=labels[0], ylabel="predictions")
        axes.grid()
        axes.figure.legend(loc=BELOW, fontsize=8)


def epoch_means(records: Records, split: str, name: str) -> tuple[list[int], list[float]]:
    """Return epochs, ascending, and the means of a metric in them, weighted by examples."""
    known = [line for line in records if line["split"] == split and line.get(name) is not None]
    epochs, places = np.unique([line["epoch"] for line in known], return_inverse=True)
    examples = np.bincount(places, [line["examples"] for line in known])
    sums = np.bincount(places, [line["examples"] * line[name] for line in known])
    return epochs.tolist(), (sums / examples).tolist()


def _best(records: Records, ranking: Ranking) -> Mapping[str, Any] | None:
    """Return the validation of the best epoch; None if the last one is taken without asking."""
    if ranking.last:
        return None
    lines = [r for r in records if r["split"] == "val" and None not in (r["loss"], r["accuracy"])]
    return max(lines, key=ranking.key, default=None)


def _finish(rows: Any, losses: Iterable[Any], title: str, **legend: Any) -> None:
    """Complete axes [rows, columns] over epochs: ticks, legend, title."""
    entries = {}
    for axes in rows.flat:
        axes.locator_params(axis="x", integer=True, min_n_ticks=1)
        axes.grid()
        for handle, words in zip(*axes.get_legend_handles_labels(), strict=True):
            entries[words] = handle
    for axes in rows[-1]:
        axes.set_xlabel("epoch")
    # Losses that explode are cut off, which the axes say: they would flatten other curves.
    lines = [(axes, max(line.get_ydata(), default=0)) for axes in losses for line in axes.lines]
    usual = statistics.median_low(highest for _, highest in lines)
    for axes, highest in sorted(lines, key=lambda line: -line[1]):
        if highest > 10 * usual and not axes.texts:
            axes.set_ylim(0, 3 * usual)
            where = {"ha": "right", "va": "top", "transform": axes.transAxes, "fontsize": 9}
            axes.text(0.97, 0.95, f"cut off: up to {highest:.2g}", **where)
    figure = rows[0, 0].figure
    figure.legend(entries.values(), entries.keys(), loc=BELOW, **legend)
    figure.suptitle(fit(title, 56), fontsize=10)


def curves(
    runs: Mapping[str, Records], path: Path, title: str = "", ranking: Ranking = BY_ACCURACY
) -> None:
    """Draw each run's loss and accuracy over epochs, scales shared; best epoch dotted, test a star.

    `runs` are the lines of each metrics.jsonl by the run's label; `title` names the shared setting.
    """
    grid = {"nrows": len(runs), "ncols": 2, "sharex": True, "sharey": "col"}
    height = 1.7 * len(runs) + (1.0 if title else 0.7)
    with panels(path, WIDTH, height, **grid) as rows:
        for row, (label, records) in zip(rows, runs.items(), strict=True):
            best = _best(records, ranking)
            metric = ranking.by[0]
            for axes, name in zip(row, ("loss", "accuracy"), strict=True):
                style = {"color": RED, "marker": ".", "linestyle": "--"}
                axes.plot(*epoch_means(records, "train", name), label="training", **style)
                epochs, means = epoch_means(records, "val", name)
                if epochs:  # or no texts are held out
                    axes.plot(epochs, means, color=BLUE, marker=".", label="validation")
                if name == "accuracy" and best and metric not in ("loss", name):
                    words = f"validation {metric.replace('_', ' ')}"
                    axes.plot(*epoch_means(records, "val", metric), color=COLORS[2], label=words)
                if best:
                    axes.axvline(best["epoch"], color="0.5", linestyle=":", label="best epoch")
                for record in (r for r in records if r["split"] == "test"):
                    axes.plot(record["epoch"], record[name], "k*", label="test")
                if not records:
                    axes.text(0.5, 0.5, "no epoch ended", ha="center", transform=axes.transAxes)
            row[0].set_title(f"{fit(label, 22)}: loss" if label else "loss")
            row[1].set_title("accuracy")
        _finish(rows, rows[:, 0], title, ncols=4)


def overlay(
    runs: Mapping[str, Records],
    winner: str,
    path: Path,
    title: str = "",
    ranking: Ranking = BY_ACCURACY,
) -> None:
    """Draw validation by epoch of a round's runs; the winner is thick, rings are best epochs."""
    with panels(path, WIDTH, 5.1 + 0.1 * len(runs), nrows=2) as rows:
        upper = next(name for name in ranking.by if name != "loss")
        for index, (label, records) in enumerate(runs.items()):
            style = _style(index)
            width = 2.8 if label == winner else 1.3
            best = _best(records, ranking)
            for axes, name in zip(rows[:, 0], (upper, "loss"), strict=True):
                means = epoch_means(records, "val", name)
                named = shorten(label, 26)  # of two columns
                axes.plot(*means, label=named, linewidth=width, markersize=4, **style)
                if best and best[name] is not None:
                    ring = {"marker": "o", "markersize": 11, "fillstyle": "none"}
                    axes.plot(best["epoch"], best[name], color=style["color"], **ring)
                axes.set_title(f"validation {name.replace('_', ' ')}")
        _finish(rows, rows[1:, 0], title, ncols=2, fontsize=8)


def heat_map(
    cells: Mapping[tuple[str, str], tuple[str, float]], winner: tuple[str, str] | None, path: Path
) -> None:
    """Draw (row, column) -> (text, validation accuracy or NaN); the winner is outlined."""
    from matplotlib.patches import Rectangle

    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    best = max((value for _, value in cells.values() if value == value), default=1.0)
    image = np.full((len(rows), len(columns)), np.nan)
    size = min(8, 36 / len(columns))
    with panels(path, WIDTH, 0.36 * len(rows) + 1.4) as ((axes,),):
        for place, (text, value) in cells.items():
            row = rows.index(place[0])
            column = columns.index(place[1])
            image[row, column] = value
            color = "white" if value > best - RANGE / 3 else "black"  # whichever contrasts more
            axes.text(column, row, text, color=color, fontsize=size, **CENTERED)
            if place == winner:
                frame: Any = {"edgecolor": RED, "linewidth": 3, "clip_on": False, "zorder": 3}
                axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, **frame))
        # From light to dark: the best stands out on a white page, and inverted on a dark one.
        drawn = axes.imshow(image, aspect="auto", vmin=best - RANGE, vmax=best, cmap="YlGnBu")
        axes.set_xticks(range(len(columns)), columns, fontsize=min(9, size + 1))
        axes.set_yticks(range(len(rows)), [shorten(row, 24) for row in rows])
        bar = {"label": "validation accuracy", "extend": "min", "location": "bottom"}
        axes.figure.colorbar(drawn, ax=axes, **bar, pad=0.02, aspect=40)
