"""Write the measurements of benchmarks/speed/pytorch.py as a table, JSON and a plot."""

from pathlib import Path
from typing import Any

import pandas as pd

from sentiment_jax.storage.files import write_json

COLUMNS = ["side", "at", "examples_per_second", "flops"]
COLORS = {"jax": "tab:blue", "torch": "tab:orange"}
SIDES = {
    "jax": "ours",
    "other": "ours, the other Python",
    "before": "ours, before",
    "torch": "PyTorch",
    "compiled": "PyTorch, torch.compile",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown: a row per job and side, with medians and their ratios to PyTorch's."""
    columns = ("job (examples/s, median)", "side", "float32", "bfloat16", "float32 over PyTorch's")
    columns += ("best dtype over PyTorch's best", "peak MB of the faster")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for what, job in pd.DataFrame(rows).groupby("what", sort=False):
        rates = job.pivot(index="side", columns="dtype", values="examples_per_second")
        faster = job.sort_values("examples_per_second").groupby("side").last()
        for side in (side for side in SIDES if side in rates.index):
            cells = [_short(rates.at[side, dtype]) for dtype in ("float32", "bfloat16")]
            cells.append(f"{rates.at[side, 'float32'] / rates.at['torch', 'float32']:.2f}")
            best = faster["examples_per_second"]
            cells.append(f"**{best[side] / best['torch']:.2f}**")
            cells.append(f"{faster.at[side, 'peak_bytes'] / 1e6:,.0f}")
            lines.append(f"| {' | '.join([what, SIDES[side], *cells])} |")
    return "\n".join(lines) + "\n"


def _short(rate: float) -> str:
    return f"{rate:,.1f}" if rate >= 10 else f"{rate:.2f}"


def plot(found: dict[str, Any], path: Path) -> None:
    """Plot seconds per example against length and batch size, seconds per pass against data size.

    Dashed: growth from our first point in proportion to the FLOPs, and to the number of reviews.
    """
    from matplotlib.figure import Figure

    wanted = [
        ("length", "tokens per review (encoder, batch 8)", "ms per review"),
        ("batch", "batch size (encoder, 128 tokens)", "ms per review"),
        ("data", "reviews (LSTM, 256 words)", "seconds per pass"),
    ]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (name, x_label, y_label) in zip(figure.subplots(1, 3), wanted, strict=True):
        for side, rows in pd.DataFrame(found.get(name, []), columns=COLUMNS).groupby("side"):
            at = rows["at"]
            y = (at if name == "data" else 1e3) / rows["examples_per_second"]
            axes.plot(at, y, "o-", color=COLORS[side], label=SIDES[side])
            if side == "jax" and name != "batch":
                costs = rows["flops"] if name == "length" else at
                label = "as the FLOPs" if name == "length" else "linear"
                floor = y.iloc[0] * costs / costs.iloc[0]
                axes.plot(at, floor, "--", color="tab:gray", label=label, zorder=0)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def write(found: dict[str, Any], folder: Path) -> None:
    """Write table.md, speed.json and speed.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "speed.json", found)
    print("seconds to the first step, by compilation cache:", found.get("start"))
    if rows := [*found["compare"], *found.get("encoders", [])]:
        (folder / "table.md").write_text(table(rows), encoding="utf-8")
        print(table(rows))
    for row in found.get("attention", []):
        print(f"{row['what']}, {row['dtype']}: {1 / row['examples_per_second']:.2f} s a text")
    if found.keys() & {"length", "batch", "data"}:
        plot(found, folder / "speed.png")
