"""Few labels and much unlabeled text: methods beside each other, over draws of the labels.

    python -m benchmarks.few_labels --output=results/few_labels/runs.csv --vectors=runs/vectors \
        --settings=data.path=DATA_DIR

Every run is a process of its own, as a user would start it; a draw of labels is a
`data.split_seed`. Rows are appended as runs end; a run whose row is there is not repeated.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from benchmarks import rows
from sentiment_jax.storage.files import read_json

VECTORS = flags.DEFINE_string("vectors", None, "run of --config=lstm:pretrain", required=True)
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
LABELS = flags.DEFINE_list("labels", ["20", "100", "500", "2500"], "numbers of labels")
DRAWS = flags.DEFINE_list("draws", ["0", "1", "2", "3", "4"], "split seeds")
METHODS = flags.DEFINE_list("methods", ["ngrams", "average"], "recipes")
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

COLUMNS = ("method", "labels", "draw", "val_accuracy", "accuracy", "loss", "best_epoch")
COLUMNS += ("linear_accuracy", "test", "cpu_s")


def run(method: str, labels: str, draw: str) -> dict[str, object]:
    """Train once; return a row of the table."""
    settings = [*SETTINGS.value, f"data.limit={labels}", f"data.split_seed={draw}"]
    if method == "average":
        settings.append(f"model.pretrained={VECTORS.value}")
    command = [sys.executable, "-m", "sentiment_jax.main", f"--config={method}"]
    command += [f"--config.{setting}" for setting in settings]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        command.append(f"--workdir={workdir}")
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        result = read_json(workdir / "result.json")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "method": method,
        "labels": labels,
        "draw": draw,
        "val_accuracy": round(result["val"]["accuracy"], 4) if result["val"] else "",
        "accuracy": round(result["test"]["accuracy"], 4),
        "loss": round(result["test"]["loss"], 4),
        "best_epoch": result["best_epoch"],
        "linear_accuracy": round(result["linear_baseline"]["test"]["accuracy"], 4),
        "test": result["test"]["examples"],
        "cpu_s": round(seconds, 1),
    }


def main(_: Sequence[str]) -> None:
    """Train what is not in the table yet, then print and draw means over the draws."""
    output = Path(OUTPUT.value)
    found = rows.read(output, COLUMNS)
    done = {(row["method"], row["labels"], row["draw"]) for row in found}
    for draw in DRAWS.value:
        for labels in LABELS.value:
            for method in METHODS.value:
                if (method, labels, draw) not in done:
                    found.append(rows.append(output, run(method, labels, draw)))
    groups = defaultdict(list)
    for row in found:
        groups[row["method"], int(row["labels"])].append(row)
    for (method, labels), group in sorted(groups.items()):
        print(
            f"{method:20} {labels:6,} labels  {_mean(group, 'accuracy')}  "
            f"linear {_mean(group, 'linear_accuracy')}  {_mean(group, 'cpu_s', '.0f')} CPU s"
        )
    plot(groups, output.with_suffix(".png"))


def plot(groups: dict[tuple[str, int], list[dict[str, str]]], path: Path) -> None:
    """Draw accuracy against the number of labels: mean, and each draw as a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    lines = {method: (method, "accuracy") for method, _ in groups}
    lines["linear baseline"] = (next(iter(groups))[0], "linear_accuracy")
    for label, (method, column) in lines.items():
        counts = sorted(labels for of, labels in groups if of == method)
        found = [[float(row[column]) for row in groups[method, count]] for count in counts]
        (line,) = axes.plot(counts, [statistics.mean(of) for of in found], label=label)
        for count, of in zip(counts, found, strict=True):
            axes.plot([count] * len(of), of, ".", color=line.get_color(), alpha=0.5)
    axes.set(xscale="log", xlabel="labels", ylabel="test accuracy", ylim=(0.48, 0.95))
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _mean(group: Sequence[dict[str, str]], column: str, digits: str = ".4f") -> str:
    values = [float(row[column]) for row in group]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):{digits}} ± {deviation:{digits}}"


if __name__ == "__main__":
    app.run(main)
