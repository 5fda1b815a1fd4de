"""Comparisons on several tables: what is chosen, and how every recipe scores on the test.

    python -m benchmarks.accuracy.choices --output=results/accuracy/tables/choices.csv \
        --weights=FOLDER --data=banking=train.csv:test.csv,hate=tweets.csv

`--mode=compare` is run as a user runs it, in a process of its own. Afterwards each of its recipes
is scored on the test reviews, the chosen one and the others, so that the choice can be compared
with the best in hindsight. A table whose rows are in the output is not run again.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas
from absl import app, flags
from sklearn.metrics import f1_score

from benchmarks.accuracy import rows
from sentiment_jax.storage.files import read_json
from sentiment_jax.training.metrics import mcnemar

DATA = flags.DEFINE_list("data", [], rows.DATA)
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every comparison")
WEIGHTS = flags.DEFINE_string("weights", None, "folder of a small encoder", required=True)
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per recipe", required=True)

COLUMNS = (
    *("data", "model", "classes", "train", "val", "test", "val_accuracy", "val_macro_f1", "p"),
    *("accuracy", "macro_f1", "loss", "test_p", "train_s", "texts_per_s", "chosen", "compare_s"),
)


def compare(name: str, settings: Sequence[str]) -> Iterator[dict[str, object]]:
    """Compare the recipes on a table; yield a row per model, first of `linear`.

    `p` is McNemar's against `linear` on the validation texts, `test_p` on the test texts.
    """
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / name
        seconds = rows.run_main(["--mode=compare", f"--workdir={workdir}"], settings)
        chosen = read_json(workdir / "comparison.json")["chosen"]
        data = read_json(workdir / chosen / "env.json")["data"]
        linear: Any = None
        for row in pandas.read_csv(workdir / "comparison.csv").to_dict("records"):
            place = row["model"].replace(":", "-")
            evaluate = ["sentiment_jax.main", "--mode=evaluate", f"--workdir={workdir / place}"]
            command = [sys.executable, "-m", *evaluate]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(done.stdout.splitlines()[-1])
            table = pandas.read_csv(workdir / place / "predictions.csv", dtype=str).fillna("")
            if "macro_f1" not in measured:  # of one label per text
                measured["macro_f1"] = f1_score(table.label, table.predicted, average="macro")
            correct = (table.label == table.predicted).to_numpy()
            linear = correct if place == "linear" else linear
            yield {
                "data": name,
                "model": row["model"],
                "classes": len(data["counts"]["train"]),
                **data["reviews"],
                **{f"val_{metric}": round(row[metric], 4) for metric in ("accuracy", "macro_f1")},
                "p": f"{row['p']:.2g}",
                **{of: round(measured[of], 4) for of in ("accuracy", "macro_f1", "loss")},
                "test_p": f"{mcnemar(correct, linear)[2]:.2g}",
                "train_s": round(row["train_seconds"], 1),
                "texts_per_s": round(row["texts_per_second"]),
                "chosen": int(place == chosen),
                "compare_s": round(seconds),
            }


def main(_: Sequence[str]) -> None:
    """Compare on what is not in the table yet."""
    output = Path(OUTPUT.value)
    done = {row["data"] for row in rows.read(output, COLUMNS)}
    shared = [*SETTINGS.value, f"model.pretrained={WEIGHTS.value}"]
    for name, own in rows.sources(DATA.value).items():
        for row in compare(name, [*own, *shared]) if name not in done else ():
            rows.append(output, row)


if __name__ == "__main__":
    app.run(main)
