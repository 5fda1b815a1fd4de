"""Pictures made from finished runs. Everywhere: training red, validation blue.

Training draws its curves with this module: nothing slow is imported before it is needed.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

COLOURS = ("tab:green", "tab:orange", "tab:purple", "tab:brown", "tab:olive", "tab:cyan")
MARKERS = ("o", "s", "^", "D", "v", "P")


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
    with rc_context({"text.parse_math": False}):  # a run's name may hold dollar signs
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure.subplots(squeeze=False, **grid)
        # Without the metadata, the file would name the version of matplotlib.
        figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
    temporary.replace(path)


def _style(index: int) -> dict[str, str]:
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}


def _write(axes: Any, column: int, row: int, text: str, dark: bool, **options: Any) -> None:
    """Write into a cell of an image, white on dark."""
    colour = "white" if dark else "black"
    axes.text(column, row, text, ha="center", va="center", color=colour, **options)


def confusions(
    counts: Mapping[str, Float[np.ndarray, "classes classes"]], classes: Sequence[str], path: Path
) -> None:
    """Draw each model's confusion matrix [label, predicted]: mean counts and shares of the row.

    Of more than ten classes, the colours alone tell the shares.
    """
    many, size, ticks = len(classes) > 10, 1.45 * min(max(len(classes), 2), 5), range(len(classes))
    with panels(path, size * len(counts) + 0.4, size + 0.2, ncols=len(counts)) as (row,):
        for axes, (name, matrix) in zip(row, counts.items(), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
            for (label, predicted), share in () if many else np.ndenumerate(shares):
                text = f"{matrix[label, predicted]:,.0f}\n{share:.1%}"
                _write(axes, predicted, label, text, bool(share > 0.5))
            axes.set_title(name, fontsize=10)
            small = {"fontsize": 4 if many else 6} if len(classes) > 5 else {}
            axes.set_xticks(ticks, classes, rotation=90 if len(classes) > 3 else 0, **small)
            axes.set_yticks(
                ticks, classes, rotation=0 if len(classes) > 3 else 90, va="center", **small
            )
            axes.set(xlabel="predicted", ylabel="label")


def calibration(
    bins: Mapping[str, tuple[Any, ...]],
    calibrated: Mapping[str, tuple[Any, ...]],
    what: tuple[str, str],
    path: Path,
) -> None:
    """Draw a calibration curve for each model's `predictions.calibration`; `what` are the axes.

    Those of models at their temperatures, where `calibrated` has them, are hollow and dotted.
    """
    with panels(path, 5.2, 4.6) as ((axes,),):
        axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
        for index, (name, (means, shares, error)) in enumerate(bins.items()):
            # Matplotlib leaves labels that begin with an underscore out of the legend.
            label = f"{name.lstrip('_')} (calibration error {error:.3f})"
            axes.plot(means, shares, label=label, **_style(index))
            if name in calibrated:
                means, shares, error = calibrated[name]
                hollow = {**_style(index), "linestyle": ":", "markerfacecolor": "white"}
                axes.plot(means, shares, label=f"calibrated ({error:.3f})", **hollow)
        axes.set(xlabel=what[0], ylabel=what[1])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="upper left")


def accuracy_by_length(
    models: Sequence[str], edges: Sequence[int], points: Any, path: Path
) -> None:
    """Draw what `predictions.accuracy_by_length` returns: truncated reviews hollow and dashed."""
    with panels(path, 8, 4) as ((axes,),):
        for (name, truncated), line in points.groupby(["model", "truncated"], sort=False):
            index = list(models).index(name)
            style = _style(index)
            axes.errorbar(
                line["bin"] + 0.09 * (index - (len(models) - 1) / 2),
                line["accuracy"],
                (line["accuracy"] - line["low"], line["high"] - line["accuracy"]),
                **style,
                linestyle="--" if truncated else "-",
                markerfacecolor="white" if truncated else style["color"],
                capsize=2,
                label=f"{name.lstrip('_')}, {'truncated' if truncated else 'whole'}",
            )
        bounds = zip(edges[:-1], edges[1:], strict=True)
        axes.set_xticks(range(len(edges) - 1), [f"{low}–{high - 1}" for low, high in bounds])
        axes.set(xlabel="words in the whole review", ylabel="test accuracy")
        axes.grid(axis="y", alpha=0.3)
        if axes.containers:
            axes.legend(frameon=False, fontsize=8)


def epoch_means(records: Sequence[Mapping[str, Any]], split: str, name: str) -> list[list[float]]:
    """Return [epochs, means] of a metric, weighted by examples; epochs ascending."""
    known = [line for line in records if line["split"] == split and line[name] is not None]
    epochs, means = sorted({line["epoch"] for line in known}), []
    for epoch in epochs:
        lines = [line for line in known if line["epoch"] == epoch]
        total = sum(line[name] * line["examples"] for line in lines)
        means.append(total / sum(line["examples"] for line in lines))
    return [list(map(float, epochs)), means]


def _draw_curves(axes: Any, records: Sequence[Mapping[str, Any]], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    splits = ("train", "tab:red", "training"), ("val", "tab:blue", "validation")
    for split, colour, label in splits:
        axes.plot(*epoch_means(records, split, name), color=colour, marker=".", label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def curves(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss and accuracy of a metrics.jsonl's lines over epochs, the test score a star."""
    with panels(path, 9, 3.6, ncols=2) as (row,):
        for axes, name in zip(row, ("loss", "accuracy"), strict=True):
            _draw_curves(axes, records, name)
            for record in records:
                if record["split"] == "test":
                    axes.plot(record["epoch"], record[name], "k*", label="test (best epoch)")
            axes.set(xlabel="epoch", ylabel=name)
            axes.legend(frameon=False)


def stage_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Draw a column of loss and accuracy for each value of an axis, scales shared."""
    width = max(2.6 * len(runs) + 0.8, 4.5)
    grid = {"nrows": 2, "ncols": len(runs), "sharex": True, "sharey": "row"}
    with panels(path, width, 5, **grid) as rows:
        for row, name in zip(rows, ("loss", "accuracy"), strict=True):
            for axes, records in zip(row, runs.values(), strict=True):
                _draw_curves(axes, records, name)
                if not records:
                    axes.text(0.5, 0.5, "no epoch ended", ha="center", transform=axes.transAxes)
            row[0].set_ylabel(name)
        for column, value in enumerate(runs):
            rows[0, column].set_title(value, fontsize=10)
            rows[1, column].set_xlabel("epoch")
        rows[0, 0].legend(frameon=False, fontsize=8)


def heat_maps(
    accuracies: Mapping[tuple[str, int, float], float | None],
    values: Mapping[str, Sequence[Any]],
    path: Path,
) -> None:
    """Draw validation accuracy over learning rate x batch size, a panel for each optimizer.

    `accuracies` belong to (optimizer, batch size, learning rate); a failed run has None, one that
    was not made no entry. `values` are those to be tried on each axis.
    """
    optimizers, batch_sizes, learning_rates = values.values()
    numbers = [value for value in accuracies.values() if value is not None] or [0.0, 1.0]
    low, high = min(numbers), max(numbers)
    # One colour for all would make a difference of nothing look like one of everything.
    scale = {"vmin": low - 0.005, "vmax": high + 0.005, "cmap": "viridis"}
    width = max(1.1 * len(batch_sizes) + 0.5, 2.3) * len(optimizers) + 1.4
    height = 0.6 * len(learning_rates) + 1.3
    with panels(path, width, height, ncols=len(optimizers)) as (maps,):
        for axes, optimizer in zip(maps, optimizers, strict=True):
            image = np.full((len(learning_rates), len(batch_sizes)), np.nan)
            for row, column in np.ndindex(image.shape):
                setting = optimizer, batch_sizes[column], learning_rates[row]
                value = accuracies.get(setting)
                text, dark = "failed" if setting in accuracies else "not run", False
                if value is not None:
                    image[row, column] = value
                    text, dark = f"{value:.4f}", value - low < 0.6 * (high - low)
                _write(axes, column, row, text, dark, fontsize=9)
            drawn = axes.imshow(image, aspect="auto", **scale)
            axes.set_facecolor("0.9")
            axes.set_title(optimizer, fontsize=10)
            axes.set_xticks(range(len(batch_sizes)), map(str, batch_sizes))
            axes.set_yticks(range(len(learning_rates)), [f"{rate:g}" for rate in learning_rates])
            axes.set_xlabel("batch size")
            if axes is not maps[0]:
                axes.set_yticklabels([])
        maps[0].set_ylabel("learning rate")
        maps[0].figure.colorbar(drawn, ax=list(maps), label="validation accuracy", pad=0.02)


def seeds(scores: Mapping[str, Sequence[Sequence[float]]], path: Path) -> None:
    """Draw validation (hollow) and test (filled) accuracies, one dot per seed, means as lines."""
    with panels(path, max(2.4 * len(scores) + 1, 4.5), 3.8) as ((axes,),):
        for index, (validation, test) in enumerate(scores.values()):
            colour = _style(index)["color"]
            for side, accuracies, fill in ((-0.14, validation, "none"), (0.14, test, colour)):
                count, centre, mean = len(accuracies), index + side, float(np.mean(accuracies))
                # Spread sideways, or equal seeds would hide each other.
                spread = np.linspace(-0.06, 0.06, count) if count > 1 else 0.0
                dots = {"markersize": 7, "color": colour, "markerfacecolor": fill}
                axes.plot(np.full(count, centre) + spread, accuracies, "o", **dots)
                axes.hlines(mean, centre - 0.1, centre + 0.1, color=colour, linewidth=1)
                # Outside, where the dots hide nothing.
                options = {"ha": "right" if side < 0 else "left", "va": "center", "fontsize": 8}
                axes.annotate(f"{mean:.4f}", (index + 1.9 * side, mean), **options)
        axes.plot([], [], "o", color="0.3", markerfacecolor="none", label="validation")
        axes.plot([], [], "o", color="0.3", label="test")
        axes.set_xticks(range(len(scores)), list(scores))
        axes.set(xlim=(-0.5, len(scores) - 0.5), ylabel="accuracy, one dot per seed")
        axes.margins(y=0.3)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower right")
