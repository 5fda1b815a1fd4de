"""Pictures made from finished runs. Everywhere: training red, validation blue.

All are one column of a page wide: beside each other on a desk's screen, below each other, and still
readable, on a phone's. Training draws its curves with this module: nothing slow is imported before
it is needed.
"""

import contextlib
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sentiment_jax.storage.selection import validation_rank

# Okabe and Ito's colors (2008): apart for the color-blind too, and in their lightness.
RED, BLUE = "#d55e00", "#0072b2"
COLOURS = (BLUE, "#e69f00", "#009e73", RED, "#cc79a7", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH = 4.8  # inches
FEW = 10  # verdicts: a bin of fewer is not drawn
SCALE = 0.05  # of a heat map: what is further below the best has its palest color
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
Records = Sequence[Mapping[str, Any]]  # the lines of a metrics.jsonl


@contextlib.contextmanager
def panels(path: Path, width: float | int, height: float | int, **grid: Any) -> Iterator[Any]:
    """Yield the axes [rows, columns] of a new figure, sizes in inches, and save it as a PNG.

    `grid` holds options of `Figure.subplots`. A reader of `path` sees a whole file; equal pictures
    are equal bytes.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    temporary = path.with_name(f".{path.name}")
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(squeeze=False, **grid)
        # Without the metadata, the file would name the version of matplotlib.
        figure.savefig(temporary, dpi=180, format="png", metadata={"Software": None})
    temporary.replace(path)


def _style(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _folded(names: Collection[str], columns: int = 2) -> dict[str, int]:
    """Return the numbers of rows and columns that hold a panel for each name."""
    columns = min(columns, len(names))
    return {"nrows": -(-len(names) // columns), "ncols": columns}


def _write(axes: Any, column: int, row: int, text: str, dark: bool, **options: Any) -> None:
    """Write into a cell of an image, white on dark."""
    color = "white" if dark else "black"
    axes.text(column, row, text, ha="center", va="center", color=color, **options)


def confusions(
    counts: Mapping[str, Float[np.ndarray, "classes classes"]], classes: Sequence[str], path: Path
) -> None:
    """Draw each model's confusion matrix [label, predicted]: mean counts and shares of the row.

    A label's own accuracy stands beside its name. Of more than ten classes, the colors alone tell
    the shares.
    """
    many, ticks = len(classes) > 10, range(len(classes))
    grid = _folded(counts, 2 if len(classes) < 4 else 1)
    size = WIDTH / grid["ncols"]
    small = {"fontsize": 4 if many else 6} if len(classes) > 5 else {}
    with panels(path, WIDTH, (min(size, 3.6) + 0.3) * grid["nrows"], **grid) as rows:
        for axes in rows.flat[len(counts) :]:
            axes.set_axis_off()
        for axes, (name, matrix) in zip(rows.flat, counts.items(), strict=False):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, aspect="auto")
            for (label, predicted), share in () if many else np.ndenumerate(shares):
                text = f"{matrix[label, predicted]:,.0f}\n{share:.1%}"
                _write(axes, predicted, label, text, bool(share > 0.6), **small)
            right = zip(classes, shares.diagonal(), strict=True)
            axes.set_title(name)
            axes.set_xticks(ticks, classes, rotation=90 if len(classes) > 3 else 0, **small)
            labels = [f"{label}\n{share:.1%} right" for label, share in right]
            axes.set_yticks(ticks, classes if many else labels, **small)
            axes.set(xlabel="predicted")


def calibration(
    curves: Mapping[str, Sequence[tuple[str, Any, float]]], what: tuple[str, str], path: Path
) -> None:
    """Draw each model's `predictions.calibration_bins`, and below how many verdicts they hold.

    A curve is (name, bins, calibration error): the model's own, then hollow and dotted the one at
    its temperatures, where they are known. `what` are the names of the axes.
    """
    shape = {"nrows": 2, "sharex": True, "height_ratios": (3, 1)}
    height = 5.1 + 0.17 * sum(map(len, curves.values()))
    with panels(path, WIDTH, height, **shape) as ((axes,), (below,)):
        axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        for index, (of, lines) in enumerate(curves.items()):
            for number, (name, bins, error) in enumerate(lines):
                style = {**_style(index), "markersize": 5}
                if number:
                    style |= {"linestyle": ":", "markerfacecolor": "white"}
                # Matplotlib leaves labels that begin with an underscore out of the legend.
                label = f"{name if number else of.lstrip('_')} (error {error:.3f})"
                kept = bins[bins["count"] >= FEW]
                axes.plot(kept["p"], kept["true"], label=label, **style)
            bins, wide = lines[0][1], 0.09 / len(curves)
            places = (bins.index + 0.5) / len(bins) + wide * (index - (len(curves) - 1) / 2)
            below.bar(places, bins["count"], wide, color=COLOURS[index % len(COLOURS)])
        axes.set(ylabel=what[1], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        below.set(xlabel=what[0], ylabel="verdicts")
        axes.grid()
        axes.figure.legend(loc="outside lower center", fontsize=8)


def accuracy_by_length(
    models: Sequence[str], edges: Sequence[int], points: Any, path: Path
) -> None:
    """Draw what `predictions.accuracy_by_length` returns: truncated reviews hollow and dashed."""
    lines = points.groupby(["model", "truncated"], sort=False)
    with panels(path, WIDTH, 3.3 + 0.17 * len(lines)) as ((axes,),):
        for (name, truncated), line in lines:
            index = list(models).index(name)
            style = _style(index)
            axes.errorbar(
                line["bin"] + 0.12 * (index - (len(models) - 1) / 2),
                line["accuracy"],
                (line["accuracy"] - line["low"], line["high"] - line["accuracy"]),
                **style,
                linestyle="--" if truncated else "-",
                markerfacecolor="white" if truncated else style["color"],
                capsize=2,
                label=f"{name.lstrip('_')}, {'truncated' if truncated else 'whole'}",
            )
        bounds = [f"{low}–{high - 1}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
        axes.set_xticks(range(len(bounds)), bounds, **turned if len(bounds) > 4 else {})
        axes.set(xlabel="words in the whole review", ylabel="test accuracy")
        axes.grid(axis="y")
        if axes.containers:
            axes.figure.legend(loc="outside lower center", fontsize=8)


def epoch_means(records: Records, split: str, name: str) -> list[list[float]]:
    """Return [epochs, means] of a metric, weighted by examples; epochs ascending."""
    known = [line for line in records if line["split"] == split and line[name] is not None]
    epochs, means = sorted({line["epoch"] for line in known}), []
    for epoch in epochs:
        lines = [line for line in known if line["epoch"] == epoch]
        total = sum(line[name] * line["examples"] for line in lines)
        means.append(total / sum(line["examples"] for line in lines))
    return [list(map(float, epochs)), means]


def _best(records: Records) -> Mapping[str, Any] | None:
    """Return the validation that chose the epoch."""
    lines = [r for r in records if r["split"] == "val" and None not in (r["loss"], r["accuracy"])]
    return max(lines, key=validation_rank, default=None)


def _clip_losses(curves: Sequence[tuple[Any, Sequence[float]]]) -> None:
    """Cut off a loss that explodes, and say so: it would flatten the others of its scale.

    `curves` are the losses drawn and their axes.
    """
    highest = [(axes, max(losses)) for axes, losses in curves if losses]
    usual = statistics.median_low([loss for _, loss in highest]) if highest else 0
    for axes in dict.fromkeys(axes for axes, _ in highest):
        most = max(loss for of, loss in highest if of is axes)
        if most > 10 * usual:
            axes.set_ylim(0, 3 * usual)
            where = {"ha": "right", "va": "top", "transform": axes.transAxes, "fontsize": 9}
            axes.text(0.97, 0.95, f"cut off: up to {most:.2g}", **where)


def curves(runs: Mapping[str, Records], path: Path, title: str = "") -> None:
    """Draw each run's loss and accuracy over epochs, scales shared; best epoch dotted, test a star.

    `runs` are the lines of each metrics.jsonl by what to call the run; `title` says what is alike.
    """
    from matplotlib.ticker import MaxNLocator

    grid = {"nrows": len(runs), "ncols": 2, "sharex": True, "sharey": "col"}
    losses = []
    with panels(path, WIDTH, 1.7 * len(runs) + 0.7 + 0.3 * bool(title), **grid) as rows:
        for row, (label, records) in zip(rows, runs.items(), strict=True):
            best = _best(records)
            for axes, name in zip(row, ("loss", "accuracy"), strict=True):
                train, val = (epoch_means(records, split, name) for split in ("train", "val"))
                axes.plot(*train, color=RED, marker=".", linestyle="--", label="training")
                if val[0]:  # or no reviews are held out
                    axes.plot(*val, color=BLUE, marker=".", label="validation")
                losses += [(axes, train[1]), (axes, val[1])] if name == "loss" else []
                if best:
                    axes.axvline(best["epoch"], color="0.5", linestyle=":", label="best epoch")
                for record in (r for r in records if r["split"] == "test"):
                    axes.plot(record["epoch"], record[name], "k*", label="test")
                if not records:
                    axes.text(0.5, 0.5, "no epoch ended", ha="center", transform=axes.transAxes)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
                axes.grid()
            row[0].set_title(f"{label}: loss" if label else "loss")
            row[1].set_title("accuracy")
        _clip_losses(losses)
        for axes in rows[-1]:
            axes.set_xlabel("epoch")
        figure, drawn = rows[0, 0].figure, max(rows[:, 0], key=lambda axes: len(axes.lines))
        figure.legend(*drawn.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize=10)


def overlay(
    runs: Mapping[str, Records],
    winner: str,
    path: Path,
    title: str = "",
    theirs: Mapping[str, Records] | None = None,
) -> None:
    """Draw all runs of a stage into one figure: validation by epoch, and the time of an epoch.

    The winner's line is thick; rings are best epochs. Dotted are the study's numbers, `theirs`.
    """
    from matplotlib.ticker import MaxNLocator

    shape = {"nrows": 3, "height_ratios": (4, 4, 0.4 + 0.5 * len(runs))}
    with panels(path, WIDTH, 5.7 + 0.33 * len(runs), **shape) as rows:
        accuracy, loss, time = rows[:, 0]
        for index, (label, records) in enumerate(runs.items()):
            style = _style(index)
            wide = {"linewidth": 2.8 if label == winner else 1.3, "markersize": 4}
            best, seconds = _best(records), [r["seconds"] for r in records if r["split"] == "train"]
            for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
                axes.plot(*epoch_means(records, "val", name), label=label, **style, **wide)
                if best:
                    ring = {"markersize": 11, "fillstyle": "none", "color": style["color"]}
                    axes.plot(best["epoch"], best[name], marker="o", **ring)
            epoch = sum(seconds) / max((r["epoch"] for r in records), default=1)
            time.barh(index, epoch, color=style["color"])
            time.text(epoch, index, f" {epoch:.3g}", va="center", fontsize=9)
        for axes, name in ((accuracy, "accuracy"), (loss, "loss")):
            for number, (label, records) in enumerate((theirs or {}).items()):
                index = [*runs].index(label) if label in runs else len(runs)
                style = {"color": COLOURS[index % len(COLOURS)], "linestyle": ":"}
                said = {} if number else {"label": "dotted: the study's own"}
                axes.plot(*epoch_means(records, "val", name), **style, **said)
            axes.set_title(f"validation {name}")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
            axes.grid()
        _clip_losses([(loss, epoch_means(of, "val", "loss")[1]) for of in runs.values()])
        handles = accuracy.get_legend_handles_labels()
        accuracy.figure.legend(*handles, loc="outside lower center", ncols=2, fontsize=8)
        loss.set_xlabel("epoch")
        time.set_yticks(range(len(runs)), list(runs))
        time.set_title("seconds of training per epoch")
        time.set(xticks=[], xlim=(0, 1.2 * (time.get_xlim()[1] or 1)), ylim=(len(runs) - 0.5, -0.5))
        accuracy.figure.suptitle(title, fontsize=10)


def heat_maps(
    accuracies: Mapping[tuple[str, int, float], float | None],
    values: Mapping[str, Sequence[Any]],
    names: Sequence[str],
    winner: tuple | None,
    chance: Collection[tuple],
    path: Path,
) -> None:
    """Draw validation accuracy over learning rate x batch size, a panel for each optimizer.

    `accuracies` belong to (optimizer, batch size, learning rate); a failed run has None, one that
    was not made no entry. `values` are those to be tried on each axis, `names` the learning rates
    in words. The `winner` is outlined, what learned nothing (`chance`) is hatched, not colored.
    """
    from matplotlib.patches import Rectangle

    optimizers, batch_sizes, learning_rates = values.values()
    best = max((value for value in accuracies.values() if value is not None), default=1.0)
    # From light to dark: the best stands out on a white page, and inverted on a dark one.
    scale = {"vmin": best - SCALE, "vmax": best, "cmap": "YlGnBu"}
    grid = _folded(optimizers, 2 if len(batch_sizes) < 4 else 1)
    height = (0.44 * len(learning_rates) + 0.4) * grid["nrows"] + 0.9
    columns = grid["ncols"] * len(batch_sizes)
    with panels(path, WIDTH, height, **grid, sharex=True, sharey=True) as maps:
        for axes in maps.flat[len(optimizers) :]:
            axes.set_axis_off()
        for axes, optimizer in zip(maps.flat, optimizers, strict=False):
            image = np.full((len(learning_rates), len(batch_sizes)), np.nan)
            for row, column in np.ndindex(image.shape):
                setting = optimizer, batch_sizes[column], learning_rates[row]
                value = accuracies.get(setting)
                text, dark = "failed" if setting in accuracies else "not run", False
                if value is not None:
                    text, dark = f"{value:.4f}", value > best - SCALE / 2
                    image[row, column] = value
                cell = (column - 0.5, row - 0.5), 1, 1
                options: dict[str, Any] = {"fontsize": 9 if columns <= 4 else 8}
                if setting in chance:
                    text, dark, image[row, column] = f"{text}\nat chance", False, np.nan
                    axes.add_patch(Rectangle(*cell, fill=False, hatch="////", linewidth=0))
                    options["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1}
                _write(axes, column, row, text, dark, **options)
                if setting == winner:
                    frame: dict[str, Any] = {"edgecolor": RED, "linewidth": 3, "zorder": 3}
                    axes.add_patch(Rectangle(*cell, fill=False, clip_on=False, **frame))
            drawn = axes.imshow(image, aspect="auto", **scale)
            axes.set_title(optimizer)
            axes.set_xticks(range(len(batch_sizes)), [f"batch {size}" for size in batch_sizes])
            axes.set_yticks(range(len(learning_rates)), names)
        for row in maps:
            row[0].set_ylabel("learning rate")
        bar = {"label": "validation accuracy", "extend": "min", "location": "bottom"}
        maps[0, 0].figure.colorbar(drawn, ax=maps, **bar, pad=0.02, aspect=40)


def seeds(
    scores: Mapping[str, Mapping[str, tuple[Sequence[float], float, float, float]]],
    numbers: Mapping[str, Sequence[int]],
    path: Path,
) -> None:
    """Draw the accuracy of every seed with its number, and each model's mean with its interval.

    `scores` are those of each model by split: its seeds' accuracies, their mean and the ends of its
    interval. `numbers` are each model's seeds.
    """
    labels: list[str] = []
    rows = sum(map(len, numbers.values())) + 3 * len(scores)
    with panels(path, WIDTH, 0.23 * rows + 1.1) as ((axes,),):
        for index, (name, splits) in enumerate(scores.items()):
            color, first = COLOURS[index % len(COLOURS)], len(labels) + 1
            labels += [name, *(f"seed {number}" for number in numbers[name])]
            for split, (accuracies, mean, low, high) in splits.items():
                fill = {"color": color, "markerfacecolor": color if split == "test" else "white"}
                axes.plot(accuracies, range(first, first + len(accuracies)), "o", **fill)
                if len(accuracies) > 1:
                    spread = [[mean - low], [high - mean]]
                    axes.errorbar(mean, len(labels), xerr=spread, fmt="D", capsize=3, **fill)
                    _beside(axes, high, len(labels), mean)
                    labels.append(f"mean, {split}")
            for row, pair in enumerate(zip(*(of[0] for of in splits.values()), strict=True), first):
                for side, value in zip((-1, 1), sorted(pair), strict=True):
                    _beside(axes, value, row, value, side)
        for split, inside in (("validation", "white"), ("test", "0.3")):
            axes.plot([], [], "o", color="0.3", markerfacecolor=inside, label=split)
        axes.set_yticks(range(len(labels)), labels)
        axes.locator_params(axis="x", nbins=5)
        axes.set(xlabel="accuracy", ylim=(len(labels) - 0.4, -0.6))
        axes.margins(x=0.25)
        axes.grid(axis="x")
        axes.figure.legend(loc="outside lower center", ncols=2)


def _beside(axes: Any, x: float, row: int, value: float, side: int = 1) -> None:
    """Write a number to the right of a place, or to its left."""
    where = {"xytext": (7 * side, 0), "textcoords": "offset points", "va": "center"}
    align = "right" if side < 0 else "left"
    axes.annotate(f"{value:.4f}", (x, row), ha=align, fontsize=8, **where)
