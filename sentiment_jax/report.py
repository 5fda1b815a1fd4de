"""Pictures and tables made from finished run directories."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

TRAIN_COLOUR, VALIDATION_COLOUR = "tab:red", "tab:blue"


def epoch_means(records: Sequence[dict[str, Any]], split: str, name: str) -> list[list[float]]:
    """Returns [epochs, means] of a metric, weighted by examples; epochs ascending."""
    sums: dict[int, list[float]] = {}
    for record in records:
        if record["split"] == split and record[name] is not None:
            total = sums.setdefault(record["epoch"], [0.0, 0.0])
            total[0] += record[name] * record["examples"]
            total[1] += record["examples"]
    epochs = sorted(sums)
    return [[float(e) for e in epochs], [sums[e][0] / sums[e][1] for e in epochs]]


def curves(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws loss and accuracy over epochs: training red, validation blue, test a dot.

    Args:
      records: the lines of a metrics.jsonl.
      path: the PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour, label in (
            ("train", TRAIN_COLOUR, "training"),
            ("val", VALIDATION_COLOUR, "validation"),
        ):
            epochs, means = epoch_means(records, split, name)
            axes.plot(epochs, means, color=colour, marker=".", label=label)
        for record in records:
            if record["split"] == "test":
                axes.plot(record["epoch"], record[name], "k*", label="test (best epoch)")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=120, format="png")
    temporary.replace(path)
