"""Recipes for one's own reviews, and the linear baseline of each run, on several data sets.

    python -m benchmarks.accuracy.own_reviews --output=results/accuracy/own_reviews/runs.csv \
        --data=products=products.csv,trec=trec.csv:trec-test.csv

Every run is a process of its own, as a user would start it. Rows are appended as runs end; a run
whose row is there is not repeated. `--imdb=DATA_DIR` adds IMDB cut to 200, 1,000 and 5,000 reviews,
scored on all 25,000 test reviews.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from benchmarks.accuracy import rows
from sentiment_jax.storage.files import read_json

DATA = flags.DEFINE_list("data", [], "NAME=CSV[:TEST_CSV[:VALIDATION_CSV]],...")
IMDB = flags.DEFINE_string("imdb", None, "data_dir of the prepared IMDB")
CONFIGS = flags.DEFINE_list("configs", ["linear"], "recipes")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds; the split is that of split_seed 0")
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

COLUMNS = (
    *("data", "config", "seed", "train", "test", "val_accuracy", "accuracy", "loss", "macro_f1"),
    *("linear_val_accuracy", "linear_accuracy", "linear_loss", "linear_macro_f1", "mcnemar_p"),
    *("best_epoch", "val_loss", "val_macro_f1", "train_s", "linear_s", "wall_s"),
)


def run(name: str, settings: Sequence[str], config: str, seed: str) -> dict[str, object]:
    """Train once; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "sentiment_jax.main", f"--config={config}"]
        command += [f"--workdir={folder}/run", f"--config.seed={seed}"]
        command.append("--config.linear_baseline=True")
        start = time.perf_counter()
        subprocess.run([*command, *settings], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        result = read_json(Path(folder) / "run" / "result.json")
        counts = read_json(Path(folder) / "run" / "env.json")["data"]["counts"]
    linear = result["linear_baseline"]
    return {
        "data": name,
        "config": config,
        "seed": seed,
        "train": sum(counts["train"].values()),
        "test": result["test"]["examples"],
        "val_accuracy": round(result["val"]["accuracy"], 4),
        "accuracy": round(result["test"]["accuracy"], 4),
        "loss": round(result["test"]["loss"], 4),
        "macro_f1": round(result["metrics"]["test"]["macro_f1"], 4),
        "linear_val_accuracy": round(linear["val"]["accuracy"], 4),
        "linear_accuracy": round(linear["test"]["accuracy"], 4),
        "linear_loss": round(linear["test"]["loss"], 4),
        "linear_macro_f1": round(linear["test"]["macro_f1"], 4),
        "mcnemar_p": round(linear["mcnemar_p"], 6),
        "best_epoch": result["best_epoch"],
        "val_loss": round(result["val"]["loss"], 4),
        "val_macro_f1": round(result["metrics"]["val"]["macro_f1"], 4),
        "train_s": round(result["train_seconds"], 1),
        "linear_s": round(linear["seconds"], 1),
        "wall_s": round(wall, 1),
    }


def main(_: Sequence[str]) -> None:
    """Train what is not in the table yet, then print means over seeds beside the baseline."""
    sources = {}
    for entry in DATA.value:
        name, _, paths = entry.partition("=")
        settings = ("path", "test_path", "validation_path")
        files = zip(settings, paths.split(":"), strict=False)
        sources[name] = [f"--config.data.{setting}={path}" for setting, path in files]
    for count in (200, 1_000, 5_000) if IMDB.value else ():
        limit = f"--config.data.limit={count}"
        tfds = "--config.data.source=tfds"
        sources[f"IMDB {count:,}"] = [tfds, f"--config.data.path={IMDB.value}", limit]
    changes = [f"--config.{setting}" for setting in SETTINGS.value]
    output = Path(OUTPUT.value)
    found = rows.read(output, COLUMNS)
    done = {(row["data"], row["config"], row["seed"]) for row in found}
    for name, settings in sources.items():
        for config in CONFIGS.value:
            for seed in SEEDS.value:
                if (name, config, seed) not in done:
                    row = run(name, [*settings, *changes], config, seed)
                    found.append(rows.append(output, row))
    groups = defaultdict(list)
    for row in found:
        groups[row["data"], row["config"]].append(row)
    for (name, config), group in groups.items():
        accuracies = [float(row["accuracy"]) for row in group]
        linear = float(group[0]["linear_accuracy"])
        spread = statistics.stdev(accuracies) if len(group) > 1 else 0.0
        error = (linear * (1 - linear) / int(group[0]["test"])) ** 0.5
        mean = statistics.mean(accuracies)
        print(
            f"{name:20} {config:12} {mean:.4f} ± {spread:.4f}  linear {linear:.4f}  "
            f"{mean - linear:+.4f}  standard error {error:.4f}  {group[0]['wall_s']} s"
        )


if __name__ == "__main__":
    app.run(main)
