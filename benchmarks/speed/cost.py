"""Test accuracy against training cost: results/speed/cost/costs.csv as a table and a plot.

    python -m benchmarks.speed.cost

A row of costs.csv names its runs, one per seed, as PAGE/RUN: `run` is a column of
results/PAGE/runs.csv, which holds the accuracy. A row without runs has its accuracy in `test`, as a
README.md there states it. CPU seconds are summed over all cores and include pre-training. If only
wall time is known, they are wall time multiplied by the number of cores: `at most`. `label` is the
row's name in the plot, and `label side` its place. pretraining.csv has one recipe after
pre-trainings of different lengths, with the seconds of the pre-training alone.
"""

import statistics
from pathlib import Path
from typing import Any

import pandas as pd

from sentiment_jax.analysis.figures import COLORS, MARKERS, WIDTH, panels

RESULTS = Path("results")
ACCURACY = "accuracy, 25,000 test reviews"
# label side -> offset in points from the marker, and the horizontal alignment
SIDES = {"right above": (7, 3, "left"), "right below": (7, -10, "left"), "above": (0, 7, "center")}
SIDES |= {"below": (0, -18, "center"), "left above": (-7, 3, "right")}
SIDES |= {"left below": (-7, -10, "right")}


def read_costs(results: Path, file: str = "costs.csv") -> pd.DataFrame:
    """Return the rows of a file, cheapest first, with `test` and its `sd` over seeds."""
    costs = pd.read_csv(results / "speed" / "cost" / file)
    for index, names in costs["runs"].dropna().items():
        accuracies = [read_accuracy(results, name) for name in names.split()]
        costs.loc[index, "test"] = statistics.mean(accuracies)
        if len(accuracies) > 1:
            costs.loc[index, "sd"] = statistics.stdev(accuracies)
    return costs.sort_values("cpu seconds")


def read_accuracy(results: Path, name: str) -> float:
    """Return the test accuracy of PAGE/RUN."""
    page, _, run = name.rpartition("/")
    runs = pd.read_csv(results / page / "runs.csv")
    tested = runs[(runs["run"] == run) & runs["test accuracy"].notna()]
    return tested["test accuracy"].item()


def table(costs: pd.DataFrame) -> str:
    """Return the rows in Markdown."""
    lines = ["| recipe | learns from | test (25,000) | CPU s |", "|---|---|---|---:|"]
    for row in costs.to_dict("records"):
        test = f"{row['test']:.4f}" + ("" if pd.isna(row["sd"]) else f" ± {row['sd']:.4f}")
        bound = "at most " if row["measured"] == "at most" else ""
        what = f"{row['recipe']} | {row['learns from']} | {test.replace('0.', '.')}"
        lines.append(f"| {what} | {bound}{row['cpu seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def draw(costs: pd.DataFrame, path: Path) -> None:
    """Plot accuracy against CPU hours; a hollow marker is an upper bound of the cost."""
    with panels(path, 1.5 * WIDTH, 3.6) as [[axes]]:
        for index, (family, rows) in enumerate(costs.groupby("family", sort=False)):
            style = {"color": COLORS[index], "marker": MARKERS[index], "linestyle": "none"}
            for row in rows.to_dict("records"):
                hours = row["cpu seconds"] / 3600
                fill = style["color"] if row["measured"] == "yes" else "none"
                axes.errorbar(hours, row["test"], row["sd"], markerfacecolor=fill, **style)
                x, y, side = SIDES[row["label side"]]
                annotate(axes, row["label"], (hours, row["test"]), xytext=(x, y), ha=side)
            axes.plot([], [], label=family, **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.margins(y=0.12)
        axes.set(xlim=(0.004, 150), xlabel="CPU hours of training (hollow: upper bound)")
        axes.set_ylabel(ACCURACY)
        axes.grid()
        axes.legend(loc="lower right")


def draw_curve(costs: pd.DataFrame, path: Path) -> None:
    """Plot accuracy against the CPU minutes of pre-training."""
    minutes = costs["cpu seconds"] / 60
    with panels(path, WIDTH, 3.2) as [[axes]]:
        axes.errorbar(minutes, costs["test"], costs["sd"], color=COLORS[0], marker=MARKERS[0])
        for x, y, recipe in zip(minutes, costs["test"], costs["recipe"], strict=True):
            side = "right" if x == minutes.max() else "left"
            annotate(axes, recipe, (x, y), xytext=(2, -8), va="top", ha=side)
        axes.margins(y=0.15)
        axes.set(xlabel="CPU minutes of pre-training", ylabel=ACCURACY)
        axes.grid()


def annotate(axes: Any, text: str, place: tuple[float, float], **given: Any) -> None:
    """Name a point in small letters, at some points from it."""
    axes.annotate(text, xy=place, textcoords="offset points", fontsize="small", **given)


def main() -> None:
    """Draw the plots and print the table."""
    costs = read_costs(RESULTS)
    folder = RESULTS / "speed" / "cost"
    draw(costs, folder / "cost.png")
    draw_curve(read_costs(RESULTS, "pretraining.csv"), folder / "pretraining.png")
    print(table(costs))


if __name__ == "__main__":
    main()
