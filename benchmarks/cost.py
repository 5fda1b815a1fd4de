"""What a test accuracy costs: results/cost/costs.csv as a table and a picture; its curve.

    python -m benchmarks.cost

A row of costs.csv names the folders under results/ whose result.json have its accuracy, one for
each seed; where there are none, `test` is what a README.md there says. The CPU seconds are those
of all cores together, pre-training included. Where only wall time is known, they are that times the
cores: `at most`. `label` is where the picture names the row. pretraining.csv has one recipe
after longer and longer pre-trainings, and their own seconds.
"""

import json
import statistics
from pathlib import Path

import pandas as pd

from sentiment_jax.analysis.figures import COLOURS, MARKERS, WIDTH, panels

RESULTS = Path("results")
LABELS = {  # where a row's name stands: points from its mark, and the side that touches it
    "right above": (7, 3, "left"),
    "right below": (7, -10, "left"),
    "above": (0, 7, "center"),
    "below": (0, -18, "center"),
    "left above": (-7, 3, "right"),
    "left below": (-7, -10, "right"),
}


def read_costs(results: Path, file: str = "costs.csv") -> pd.DataFrame:
    """Return the rows of a file, cheapest first, with `test` and its `spread` over seeds."""
    costs = pd.read_csv(results / "cost" / file)
    for index, folders in costs["results"].dropna().items():
        scores = [
            json.loads((results / f / "result.json").read_text())["test"] for f in folders.split()
        ]
        assert all(score["examples"] == 25_000 for score in scores)
        accuracies = [score["accuracy"] for score in scores]
        costs.loc[index, "test"] = statistics.mean(accuracies)
        if len(accuracies) > 1:
            costs.loc[index, "spread"] = statistics.stdev(accuracies)
    return costs.sort_values("cpu seconds")


def table(costs: pd.DataFrame) -> str:
    """Return the rows in Markdown."""
    lines = ["| recipe | learns from | test (25,000) | CPU s |", "|---|---|---|---:|"]
    for row in costs.to_dict("records"):
        test = f"{row['test']:.4f}" + ("" if pd.isna(row["spread"]) else f" ± {row['spread']:.4f}")
        bound = "at most " if row["measured"] == "at most" else ""
        what = f"{row['recipe']} | {row['learns from']} | {test.replace('0.', '.')}"
        lines.append(f"| {what} | {bound}{row['cpu seconds']:,.0f} |")
    return "\n".join(lines) + "\n"


def draw(costs: pd.DataFrame, path: Path) -> None:
    """Draw accuracy over CPU hours; hollow where those are an upper bound."""
    with panels(path, 1.5 * WIDTH, 3.6) as [[axes]]:
        for index, (family, rows) in enumerate(costs.groupby("family", sort=False)):
            style = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": "none"}
            for row in rows.to_dict("records"):
                fill = style["color"] if row["measured"] == "yes" else "none"
                axes.errorbar(
                    *(row["cpu seconds"] / 3600, row["test"], row["spread"]),
                    **style,
                    markerfacecolor=fill,
                )
                x, y, side = LABELS[row["label"]]
                style_of_text = {"textcoords": "offset points", "fontsize": "small", "ha": side}
                place = row["cpu seconds"] / 3600, row["test"]
                axes.annotate(row["recipe"], place, (x, y), **style_of_text)
            axes.plot([], [], label=family, **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlim(0.004, 150)
        axes.margins(y=0.12)
        axes.set_xlabel("CPU hours of training (hollow: at most)")
        axes.set_ylabel("accuracy, 25,000 test reviews")
        axes.grid()
        axes.legend(loc="lower right")


def draw_curve(costs: pd.DataFrame, path: Path) -> None:
    """Draw accuracy over the CPU minutes of a pre-training."""
    with panels(path, WIDTH, 3.2) as [[axes]]:
        place = costs["cpu seconds"] / 60, costs["test"]
        axes.errorbar(*place, costs["spread"], color=COLOURS[0], marker=MARKERS[0])
        for x, y, recipe in zip(*place, costs["recipe"], strict=True):
            side = "right" if x == place[0].max() else "left"
            style = {"textcoords": "offset points", "fontsize": "small", "va": "top"}
            axes.annotate(recipe, (x, y), (2, -8), ha=side, **style)
        axes.margins(y=0.15)
        axes.set_xlabel("CPU minutes of pre-training")
        axes.set_ylabel("accuracy, 25,000 test reviews")
        axes.grid()


def main() -> None:
    """Write the pictures and print the table."""
    costs = read_costs(RESULTS)
    draw(costs, RESULTS / "cost" / "cost.png")
    draw_curve(read_costs(RESULTS, "pretraining.csv"), RESULTS / "cost" / "pretraining.png")
    print(table(costs))


if __name__ == "__main__":
    main()
