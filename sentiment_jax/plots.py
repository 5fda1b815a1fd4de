"""Pictures made from finished runs. Everywhere: training red, validation blue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

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
