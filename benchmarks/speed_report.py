"""What benchmarks/speed.py measured, as a table, JSON and a plot."""

from pathlib import Path
from typing import Any

from sentiment_jax.storage.files import write_json

COLORS = {"jax": "tab:blue", "torch": "tab:orange"}
NAMES = {"jax": "ours", "torch": "PyTorch"}


def table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown: a line per job, medians, and the ratio of each side's best."""
    lines = [
        "| job (examples/s, median) | ours float32 | ours bfloat16 | PyTorch float32 "
        "| PyTorch bfloat16 | best to best | peak MB, ours : PyTorch (of these) |",
        "|---|---|---|---|---|---|---|",
    ]
    for what in dict.fromkeys(row["what"] for row in rows):
        found = {(row["side"], row["dtype"]): row for row in rows if row["what"] == what}
        best = {
            side: max(
                (row for (of, _), row in found.items() if of == side),
                key=lambda row: row["examples_per_second"],
            )
            for side in ("jax", "torch")
        }
        rates = " | ".join(
            f"{found[key]['examples_per_second']:,.1f}"
            for side in ("jax", "torch")
            for key in ((side, "float32"), (side, "bfloat16"))
        )
        ratio = best["jax"]["examples_per_second"] / best["torch"]["examples_per_second"]
        peaks = " : ".join(f"{best[side]['peak_bytes'] / 1e6:,.0f}" for side in ("jax", "torch"))
        lines.append(f"| {what} | {rates} | **{ratio:.2f}** | {peaks} |")
    return "\n".join(lines) + "\n"


def plot(found: dict[str, Any], path: Path) -> None:
    """Seconds per example against length and batch, seconds per pass against the data.

    Dashed: what our first point would grow to with the FLOPs of a review, and with the reviews.
    """
    from matplotlib.figure import Figure

    wanted = [
        ("length", "tokens per review (encoder, batch 8)", "ms per review"),
        ("batch", "batch size (encoder, 128 tokens)", "ms per review"),
        ("data", "reviews (LSTM, 256 words)", "seconds per pass"),
    ]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    for axes, (name, x_label, y_label) in zip(figure.subplots(1, 3), wanted, strict=True):
        for side, color in COLORS.items():
            rows = [row for row in found.get(name, []) if row["side"] == side]
            x = [row["at"] for row in rows]
            each = [1 / row["examples_per_second"] for row in rows]
            y = [at * s for at, s in zip(x, each, strict=True)] if name == "data" else each
            scale = 1 if name == "data" else 1e3
            axes.plot(x, [scale * value for value in y], "o-", color=color, label=NAMES[side])
            costs = [row.get("flops", row["at"]) for row in rows]
            if side == "jax" and rows and name != "batch":
                floor = [scale * y[0] * cost / costs[0] for cost in costs]
                label = "as the FLOPs" if name == "length" else "linear"
                axes.plot(x, floor, "--", color="tab:gray", label=label, zorder=0)
        axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, None), ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def write(found: dict[str, Any], folder: Path) -> None:
    """Write table.md, speed.json and speed.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "speed.json", found)
    if "start" in found:
        cold, warm = found["start"]["cold"], found["start"]["warm"]
        print(f"first step after {cold:.1f} s, with a full compilation cache {warm:.1f} s")
    if found["compare"]:
        (folder / "table.md").write_text(table(found["compare"]), encoding="utf-8")
        print(table(found["compare"]))
    plot(found, folder / "speed.png")
