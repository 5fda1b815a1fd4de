"""Figures of finished runs. Everywhere: training red, validation blue.

All are one column wide: side by side on a desktop, one below the other and still readable on a
phone. Training draws its curves with this module, so nothing slow is imported before it is needed.
"""

import contextlib
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sentiment_jax.storage.selection import validation_rank

# The palette of Okabe and Ito (2008): distinct for the color-blind, and in lightness.
RED = "#d55e00"
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
    "hatch.color": "0.7",
}
BELOW = "outside lower center"  # where legends stand
CENTERED = {"ha": "center", "va": "center"}
Records = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


@contextlib.contextmanager
def panels(path: Path, width: float | int, height: float | int, **grid: Any) -> Iterator[Any]:
    """Yield the axes [rows, columns] of a new figure, sizes in inches, and save it as a PNG.

    `grid` holds options of `Figure.subplots`. The file is replaced atomically; equal figures have
    equal bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    temporary = path.with_name(f".{path.name}")
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(squeeze=False, **grid)
        # The metadata would name the version of matplotlib.
        figure.savefig(temporary, dpi=180, format="png", metadata={"Software": None})
    temporary.replace(path)


def _style(index: int) -> dict[str, str]:
    return {"color": COLORS[index % len(COLORS)], "marker": MARKERS[index % len(MARKERS)]}


def _grid(count: int, columns: int) -> dict[str, int]:
    """Return the numbers of rows and columns that hold some panels."""
    columns = min(columns, count)
    return {"nrows": -(-count // columns), "ncols": columns}


def confusions(
    counts: Mapping[str, Float[np.ndarray, "classes classes"]], classes: Sequence[str], path: Path
) -> None:
    """Draw each model's confusion matrix [label, predicted]: mean counts and shares of the row.

    The recall of a label stands beside its name. With more than ten classes, there are only colors.
    """
    many = len(classes) > 10
    grid = _grid(len(counts), columns=2 if len(classes) < 4 else 1)
    height = min(WIDTH / grid["ncols"], 3.6) + 0.3
    small = {"fontsize": 4 if many else 6} if len(classes) > 5 else {}
    with panels(path, WIDTH, height * grid["nrows"], **grid) as rows:
        for axes in rows.flat[len(counts) :]:
            axes.set_axis_off()
        for axes, (name, matrix) in zip(rows.flat, counts.items(), strict=False):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            labels = list(classes)
            axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            if not many:
                labels = [f"{c}\n{shares[i, i]:.1%} correct" for i, c in enumerate(classes)]
                for (label, predicted), share in np.ndenumerate(shares):
                    text = f"{matrix[label, predicted]:,.0f}\n{share:.1%}"
                    color = "white" if share > 0.6 else "black"
                    axes.text(predicted, label, text, color=color, **CENTERED, **small)
            axes.set_title(name)
            ticks = range(len(classes))
            axes.set_xticks(ticks, classes, rotation=90 if len(classes) > 3 else 0, **small)
            axes.set_yticks(ticks, labels, **small)
            axes.set(xlabel="predicted")


def calibration(
    curves: Mapping[str, Sequence[tuple[str, Any, float]]], labels: tuple[str, str], path: Path
) -> None:
    """Draw each model's `predictions.calibration_bins` and, below, the number of predictions.

    A curve is (name, bins, calibration error): first the model's own, then, hollow and dotted, that
    at its temperatures. `labels` are those of the axes.
    """
    shape = {"nrows": 2, "sharex": True, "height_ratios": (3, 1)}
    height = 5.1 + 0.17 * sum(map(len, curves.values()))
    width = 0.09 / len(curves)
    with panels(path, WIDTH, height, **shape) as ((axes,), (below,)):
        axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        for index, (model, lines) in enumerate(curves.items()):
            for number, (name, bins, error) in enumerate(lines):
                style = {**_style(index), "markersize": 5}
                if number:
                    style |= {"linestyle": ":", "markerfacecolor": "white"}
                # Matplotlib leaves labels that begin with an underscore out of the legend.
                label = f"{name or model.lstrip('_')} (error {error:.3f})"
                kept = bins[bins["count"] >= MIN_COUNT]
                axes.plot(kept["p"], kept["true"], label=label, **style)
            _, bins, _ = lines[0]
            centers = (bins.index + 0.5) / len(bins) + width * (index - (len(curves) - 1) / 2)
            below.bar(centers, bins["count"], width, color=_style(index)["color"])
        axes.set(ylabel=labels[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        below.set(xlabel=labels[0], ylabel="predictions")
        axes.grid()
        axes.figure.legend(loc=BELOW, fontsize=8)


def accuracy_by_length(
    models: Sequence[str], edges: Sequence[int], points: Any, path: Path
) -> None:
    """Draw `predictions.accuracy_by_length`: truncated reviews hollow and dashed."""
    lines = points.groupby(["model", "truncated"], sort=False)
    with panels(path, WIDTH, 3.3 + 0.17 * len(lines)) as ((axes,),):
        for (name, truncated), line in lines:
            index = list(models).index(name)
            style = _style(index)
            if truncated:
                style |= {"linestyle": "--", "markerfacecolor": "white"}
            axes.errorbar(
                line["bin"] + 0.12 * (index - (len(models) - 1) / 2),
                line["accuracy"],
                (line["accuracy"] - line["low"], line["high"] - line["accuracy"]),
                **style,
                capsize=2,
                label=f"{name.lstrip('_')}, {'truncated' if truncated else 'whole'}",
            )
        bins = [f"{low}–{high - 1}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(bins)), bins, **turned if len(bins) > 4 else {})
        axes.set(xlabel="words in the whole review", ylabel="test accuracy")
        axes.grid(axis="y")
        axes.figure.legend(loc=BELOW, fontsize=8)


def epoch_means(records: Records, split: str, name: str) -> tuple[list[int], list[float]]:
    """Return epochs, ascending, and the means of a metric in them, weighted by examples."""
    known = [line for line in records if line["split"] == split and line[name] is not None]
    epochs = sorted({line["epoch"] for line in known})
    means = []
    for epoch in epochs:
        lines = [line for line in known if line["epoch"] == epoch]
        total = sum(line[name] * line["examples"] for line in lines)
        means.append(total / sum(line["examples"] for line in lines))
    return epochs, means


def _best(records: Records) -> Mapping[str, Any] | None:
    """Return the validation of the best epoch."""
    lines = [r for r in records if r["split"] == "val" and None not in (r["loss"], r["accuracy"])]
    return max(lines, key=validation_rank, default=None)


def _mark_epochs(axes: Any) -> None:
    """Put ticks and a grid at whole epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid()


def _clip_losses(curves: Sequence[tuple[Any, Sequence[float]]]) -> None:
    """Cut off losses (axes, values) that explode, and say so: they would flatten other curves."""
    highest = [(axes, max(losses)) for axes, losses in curves if losses]
    usual = statistics.median_low([loss for _, loss in highest] or [0.0])
    for axes in {axes for axes, _ in highest}:
        most = max(loss for of, loss in highest if of is axes)
        if most > 10 * usual:
            axes.set_ylim(0, 3 * usual)
            where = {"ha": "right", "va": "top", "transform": axes.transAxes, "fontsize": 9}
            axes.text(0.97, 0.95, f"cut off: up to {most:.2g}", **where)


def curves(runs: Mapping[str, Records], path: Path, title: str = "") -> None:
    """Draw each run's loss and accuracy over epochs, scales shared; best epoch dotted, test a star.

    `runs` are the lines of each metrics.jsonl by the run's label; `title` says what is alike.
    """
    grid = {"nrows": len(runs), "ncols": 2, "sharex": True, "sharey": "col"}
    height = 1.7 * len(runs) + (1.0 if title else 0.7)
    losses: list[tuple[Any, list[float]]] = []
    with panels(path, WIDTH, height, **grid) as rows:
        for row, (label, records) in zip(rows, runs.items(), strict=True):
            best = _best(records)
            for axes, name in zip(row, ("loss", "accuracy"), strict=True):
                train = epoch_means(records, "train", name)
                val = epoch_means(records, "val", name)
                axes.plot(*train, color=RED, marker=".", linestyle="--", label="training")
                if val[0]:  # or no reviews are held out
                    axes.plot(*val, color=BLUE, marker=".", label="validation")
                if name == "loss":
                    losses += [(axes, train[1]), (axes, val[1])]
                if best:
                    axes.axvline(best["epoch"], color="0.5", linestyle=":", label="best epoch")
                for record in (r for r in records if r["split"] == "test"):
                    axes.plot(record["epoch"], record[name], "k*", label="test")
                if not records:
                    axes.text(0.5, 0.5, "no epoch ended", ha="center", transform=axes.transAxes)
                _mark_epochs(axes)
            row[0].set_title(f"{label}: loss" if label else "loss")
            row[1].set_title("accuracy")
        _clip_losses(losses)
        for axes in rows[-1]:
            axes.set_xlabel("epoch")
        fullest = max(rows[:, 0], key=lambda axes: len(axes.lines))
        fullest.figure.legend(*fullest.get_legend_handles_labels(), loc=BELOW, ncols=4)
        fullest.figure.suptitle(title, fontsize=10)


def overlay(
    runs: Mapping[str, Records],
    winner: str,
    path: Path,
    title: str = "",
    theirs: Mapping[str, Records] | None = None,
) -> None:
    """Draw validation by epoch of all runs of a stage in one figure, and the time per epoch.

    The winner's line is thick; rings are best epochs; the study's numbers, `theirs`, are dotted.
    """
    shape = {"nrows": 3, "height_ratios": (4, 4, 0.4 + 0.5 * len(runs))}
    order = list(runs)
    with panels(path, WIDTH, 5.7 + 0.33 * len(runs), **shape) as rows:
        accuracy, loss, time = rows[:, 0]
        metrics = {"accuracy": accuracy, "loss": loss}
        for index, (label, records) in enumerate(runs.items()):
            style = _style(index)
            width = 2.8 if label == winner else 1.3
            best = _best(records)
            for name, axes in metrics.items():
                means = epoch_means(records, "val", name)
                axes.plot(*means, label=label, linewidth=width, markersize=4, **style)
                if best:
                    ring = {"marker": "o", "markersize": 11, "fillstyle": "none"}
                    axes.plot(best["epoch"], best[name], color=style["color"], **ring)
            seconds = sum(r["seconds"] for r in records if r["split"] == "train")
            seconds /= max((r["epoch"] for r in records), default=1)
            time.barh(index, seconds, color=style["color"])
            time.text(seconds, index, f" {seconds:.3g}", va="center", fontsize=9)
        for number, (label, records) in enumerate((theirs or {}).items()):
            color = _style(order.index(label) if label in order else len(order))["color"]
            legend = None if number else "dotted: the study's own"
            for name, axes in metrics.items():
                means = epoch_means(records, "val", name)
                axes.plot(*means, color=color, linestyle=":", label=legend)
        for name, axes in metrics.items():
            axes.set_title(f"validation {name}")
            _mark_epochs(axes)
        _clip_losses([(loss, epoch_means(of, "val", "loss")[1]) for of in runs.values()])
        handles = accuracy.get_legend_handles_labels()
        accuracy.figure.legend(*handles, loc=BELOW, ncols=2, fontsize=8)
        loss.set_xlabel("epoch")
        time.set_yticks(range(len(runs)), order)
        time.set_title("seconds of training per epoch")
        time.set(xticks=[], xlim=(0, 1.2 * (time.get_xlim()[1] or 1)), ylim=(len(runs) - 0.5, -0.5))
        accuracy.figure.suptitle(title, fontsize=10)


def heat_maps(
    accuracies: Mapping[tuple[Any, ...], float | None],
    values: Mapping[str, Sequence[Any]],
    *,
    names: Sequence[str],
    winner: tuple[Any, ...] | None,
    chance: Collection[tuple[Any, ...]],
    path: Path,
) -> None:
    """Draw validation accuracy over learning rate x batch size, a panel for each optimizer.

    `accuracies` belong to (optimizer, batch size, learning rate); a failed trial has None, one that
    was not run no entry. `values` are those of each axis, `names` the learning rates in words. The
    `winner` is outlined; settings at `chance` are hatched, not colored.
    """
    from matplotlib.patches import Rectangle

    optimizers, batch_sizes, learning_rates = values.values()
    best = max((value for value in accuracies.values() if value is not None), default=1.0)
    # From light to dark: the best stands out on a white page, and inverted on a dark one.
    scale = {"vmin": best - RANGE, "vmax": best, "cmap": "YlGnBu"}
    grid = _grid(len(optimizers), columns=2 if len(batch_sizes) < 4 else 1)
    height = (0.44 * len(learning_rates) + 0.4) * grid["nrows"] + 0.9
    size = 9 if grid["ncols"] * len(batch_sizes) <= 4 else 8
    with panels(path, WIDTH, height, **grid, sharex=True, sharey=True) as maps:
        for axes in maps.flat[len(optimizers) :]:
            axes.set_axis_off()
        for axes, optimizer in zip(maps.flat, optimizers, strict=False):
            image = np.full((len(learning_rates), len(batch_sizes)), np.nan)
            for row, column in np.ndindex(image.shape):
                setting = optimizer, batch_sizes[column], learning_rates[row]
                value = accuracies.get(setting)
                corner = (column - 0.5, row - 0.5)
                options: dict[str, Any] = {**CENTERED, "fontsize": size}
                if value is None:
                    text = "failed" if setting in accuracies else "not run"
                elif setting in chance:
                    text = f"{value:.4f}\nat chance"
                    hatched = Rectangle(corner, 1, 1, fill=False, hatch="////", linewidth=0)
                    axes.add_patch(hatched)
                    options["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                else:
                    text = f"{value:.4f}"
                    image[row, column] = value
                    options["color"] = "white" if value > best - RANGE / 2 else "black"
                axes.text(column, row, text, **options)
                if setting == winner:
                    frame: Any = {"edgecolor": RED, "linewidth": 3, "clip_on": False, "zorder": 3}
                    axes.add_patch(Rectangle(corner, 1, 1, fill=False, **frame))
            drawn = axes.imshow(image, aspect="auto", **scale)
            axes.set_title(optimizer)
            axes.set_xticks(range(len(batch_sizes)), [f"batch {size}" for size in batch_sizes])
            axes.set_yticks(range(len(learning_rates)), names)
        for row in maps:
            row[0].set_ylabel("learning rate")
        bar = {"label": "validation accuracy", "extend": "min", "location": "bottom"}
        maps[0, 0].figure.colorbar(drawn, ax=maps, **bar, pad=0.02, aspect=40)


def seeds(
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    numbers: Mapping[str, Sequence[int]],
    path: Path,
) -> None:
    """Draw the accuracy of every seed, and each model's mean with its 95 % interval.

    `scores` are accuracies by model, split and seed; `numbers` are each model's seeds.
    """
    from sentiment_jax.analysis.predictions import mean_interval

    labels: list[str] = []
    rows = sum(map(len, numbers.values())) + 3 * len(scores)
    with panels(path, WIDTH, 0.23 * rows + 1.1) as ((axes,),):
        for index, (name, splits) in enumerate(scores.items()):
            color = _style(index)["color"]
            labels.append(name)
            first = len(labels)
            labels += [f"seed {number}" for number in numbers[name]]
            for split, accuracies in splits.items():
                fill = {"color": color, "markerfacecolor": color if split == "test" else "white"}
                axes.plot(accuracies, range(first, first + len(accuracies)), "o", **fill)
                if len(accuracies) > 1:
                    mean, low, high = mean_interval(accuracies)
                    error = [[mean - low], [high - mean]]
                    axes.errorbar(mean, len(labels), xerr=error, fmt="D", capsize=3, **fill)
                    _annotate(axes, high, len(labels), mean)
                    labels.append(f"mean, {split}")
            for row, pair in enumerate(zip(*splits.values(), strict=True), first):
                _annotate(axes, min(pair), row, min(pair), left=True)
                _annotate(axes, max(pair), row, max(pair))
        for split, inside in (("validation", "white"), ("test", "0.3")):
            axes.plot([], [], "o", color="0.3", markerfacecolor=inside, label=split)
        axes.set_yticks(range(len(labels)), labels)
        axes.locator_params(axis="x", nbins=5)
        axes.set(xlabel="accuracy", ylim=(len(labels) - 0.4, -0.6))
        axes.margins(x=0.25)
        axes.grid(axis="x")
        axes.figure.legend(loc=BELOW, ncols=2)


def _annotate(axes: Any, x: float, row: int, value: float, left: bool = False) -> None:
    """Write a number to the right of a point, or to its left."""
    where = {"xytext": (-7 if left else 7, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(f"{value:.4f}", (x, row), ha="right" if left else "left", fontsize=8, **where)
