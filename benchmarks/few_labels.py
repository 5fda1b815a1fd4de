"""Few labels and much unlabeled text: methods beside each other, over draws of the labels.

    python -m benchmarks.few_labels --output=results/few_labels/runs.csv --runs=runs/few_labels \
        --vectors=runs/vectors --settings=data.path=DATA_DIR

Method `lstm` trains two LSTMs on the embeddings, an ensemble with `average`. Methods `encoder` and
`student` fine-tune the weights in --encoder at 128 tokens. The `student` is distilled from
`average` on the texts in --texts, after which the two are an ensemble. If there are many labels,
the LSTMs teach, too, and the ensemble has another student, an LSTM distilled on all unlabeled text:

    python -m benchmarks.few_labels --output=results/few_labels/encoder.csv \
        --runs=runs/few_labels --vectors=runs/vectors --settings=data.path=DATA_DIR \
        --methods=encoder,student --encoder=FOLDER --texts=texts.txt

Every run is a process of its own, as a user would start it; a draw of labels is a
`data.split_seed`. Rows are appended as a method ends; what is in --runs or in the table is not
trained again: other texts, vectors or weights need another folder. CPU seconds of a row are those
of all runs that its method has trained so far.
"""

import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks import rows
from sentiment_jax.analysis.predictions import read_predictions
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial

RUNS = flags.DEFINE_string("runs", None, "folder of the runs", required=True)
VECTORS = flags.DEFINE_string("vectors", None, "run of --config=lstm:pretrain", required=True)
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
LABELS = flags.DEFINE_list("labels", ["20", "100", "500", "2500"], "numbers of labels")
DRAWS = flags.DEFINE_list("draws", ["0", "1", "2", "3", "4"], "split seeds")
METHODS = flags.DEFINE_list("methods", ["ngrams", "average"], "and lstm, encoder, student")
ENCODER = flags.DEFINE_string("encoder", "", "folder of weights of a BERT")
TEXTS = flags.DEFINE_string("texts", "", "unlabeled texts for the student, one per line")
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

COLUMNS = ("method", "labels", "draw", "val_accuracy", "accuracy", "loss", "best_epoch")
COLUMNS += ("linear_accuracy", "test", "cpu_s")
SHORT = ("data.max_length=128", "data.length_buckets=(64,96)", "linear_baseline=False")
FINE_TUNED = ("batch_size=8", "min_steps=200", "optimizer.learning_rate=5e-5")
ALL_LABELS = ("data.validation_fraction=0", "linear_baseline=False")
LSTM = (*ALL_LABELS, "min_steps=400", "optimizer.learning_rate=4e-3")
LSTM_STUDENT = (*ALL_LABELS, "epochs=2", "optimizer.learning_rate=2e-3")
STUDENT = (*ALL_LABELS, "epochs=1", "optimizer.learning_rate=1e-4")
MANY = 2500  # labels, of which an LSTM learns more than `average`


def run(method: str, labels: str, draw: str) -> list[dict[str, object]]:
    """Train the models of a method; return a row of the table for each, and for each ensemble."""
    table = []
    spent = []  # CPU seconds
    vectors = f"model.pretrained={VECTORS.value}"
    encoder = (f"model.pretrained={ENCODER.value}", *SHORT)

    def train(name: str, recipe: str, *settings: str, seed: int = 0) -> Path:
        workdir = Path(RUNS.value) / f"{name}-{labels}-{draw}-{seed}".replace(" ", "-")
        seconds = Path(f"{workdir}.cpu_s")
        command = [sys.executable, "-m", "sentiment_jax.main", f"--config={recipe}"]
        drawn = (f"data.limit={labels}", f"data.split_seed={draw}", f"seed={seed}")
        command += [f"--config.{setting}" for setting in (*SETTINGS.value, *settings, *drawn)]
        command.append(f"--workdir={workdir}")
        fresh = [] if seconds.is_file() else ["--fresh"]  # main refuses other settings
        before = _cpu_seconds()
        subprocess.run([*command, *fresh], check=True, stdout=subprocess.DEVNULL)
        if fresh:
            seconds.write_text(f"{_cpu_seconds() - before:.1f}\n")
        spent.append(float(seconds.read_text()))
        score(name, workdir)
        return workdir

    def score(name: str, *runs: Path) -> None:
        known = {"method": name, "labels": labels, "draw": draw, "cpu_s": round(sum(spent), 1)}
        table.append({**dict.fromkeys(COLUMNS, ""), **scores(*runs), **known})

    if method == "ngrams":
        train("ngrams", "ngrams")
    elif method == "encoder":
        train("encoder", "bert:long", *encoder, *FINE_TUNED)
    else:
        average = train("average", "average", vectors)
        many = method == "student" and int(labels) >= MANY
        teachers = [average]
        if method == "lstm" or many:
            for seed in (0, 1):
                teachers.append(train("lstm", "lstm:semi", vectors, *LSTM, seed=seed))
            score("average + lstm", *teachers)
        if method == "student":
            taught = f"data.teacher={','.join(map(str, teachers))}"
            students = []
            if many:
                students.append(train("lstm student", "lstm:semi", vectors, *LSTM_STUDENT, taught))
            settings = (*STUDENT, f"pretrain.text={TEXTS.value}", taught)
            students.append(train("student", "bert:long", *encoder, *settings))
            score("average + student", average, *students)
    return table


def scores(first: Path, *others: Path) -> dict[str, object]:
    """Return what the table says of a run, or of the averaged probabilities of several."""
    if not others:
        result = read_json(first / "result.json")
        linear = result.get("linear_baseline")
        return {
            "val_accuracy": round(result["val"]["accuracy"], 4) if result["val"] else "",
            "accuracy": round(result["test"]["accuracy"], 4),
            "loss": round(result["test"]["loss"], 4),
            "best_epoch": result["best_epoch"],
            "linear_accuracy": round(linear["test"]["accuracy"], 4) if linear else "",
            "test": result["test"]["examples"],
        }
    trials = [Trial("run", run, RunDirectory(run).read_config()) for run in (first, *others)]
    found = read_predictions([trial.refresh() for trial in trials])
    averaged = found.probabilities.mean(axis=0)
    right = averaged[np.arange(len(found.labels)), found.labels]
    return {
        "accuracy": round(float(np.mean(right > 0.5)), 4),
        "loss": round(float(-np.mean(np.log(right))), 4),
        "test": len(found.labels),
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(_: Sequence[str]) -> None:
    """Train what is not in the table yet, then print and draw means over the draws."""
    output = Path(OUTPUT.value)
    found = rows.read(output, COLUMNS)
    done = {(row["method"], row["labels"], row["draw"]) for row in found}
    for draw in DRAWS.value:
        for labels in LABELS.value:
            for method in METHODS.value:
                if (method, labels, draw) in done:
                    continue
                for row in run(method, labels, draw):
                    if (row["method"], labels, draw) not in done:
                        found.append(rows.append(output, row))
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
    """Draw accuracy against the number of labels, if there are several: mean, each draw a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    lines = {method: (method, "accuracy") for method, _ in groups}
    lines["linear baseline"] = (next(iter(groups))[0], "linear_accuracy")
    for label, (method, column) in lines.items():
        found = {}
        for (name, count), group in sorted(groups.items()):
            if name == method and all(row[column] for row in group):
                found[count] = [float(row[column]) for row in group]
        if len(found) < 2:
            continue
        (line,) = axes.plot(list(found), list(map(statistics.mean, found.values())), label=label)
        for count, values in found.items():
            axes.plot([count] * len(values), values, ".", color=line.get_color(), alpha=0.5)
    axes.set(xscale="log", xlabel="labels", ylabel="test accuracy", ylim=(0.48, 0.95))
    counts = sorted({labels for _, labels in groups})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _mean(group: Sequence[dict[str, str]], column: str, digits: str = ".4f") -> str:
    values = [float(row[column]) for row in group if row[column]]
    if not values:
        return "-"
    mean = f"{statistics.mean(values):{digits}}"
    return f"{mean} ± {statistics.stdev(values):{digits}}" if len(values) > 1 else mean


if __name__ == "__main__":
    app.run(main)
