"""Recipes for one's own reviews, and the linear baseline of each run, on several data sets.

    python -m benchmarks.accuracy.own_reviews --output=results/accuracy/own_reviews/runs.csv \
        --data=products=products.csv,trec=trec.csv:trec-test.csv

Every run is a process of its own. Rows are appended as runs end; a run whose row is there is not
repeated. `--imdb=DATA_DIR` adds IMDB cut to 200, 1,000 and 5,000 reviews, scored on all 25,000 test
reviews.
"""

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from absl import app, flags

from benchmarks.accuracy import rows
from sentiment_jax.storage.files import read_json

DATA = flags.DEFINE_list("data", [], rows.DATA)
IMDB = flags.DEFINE_string("imdb", None, "data_dir of the prepared IMDB")
CONFIGS = flags.DEFINE_list("configs", ["linear"], "recipes")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds; the split is that of split_seed 0")
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

KEY = ("data", "config", "seed", "train")
LINEAR = "linear_baseline"
FOUND = {  # in result.json
    **{"test": "test.examples", "val_accuracy": "val.accuracy", "accuracy": "test.accuracy"},
    **{"loss": "test.loss", "macro_f1": "metrics.test.macro_f1"},
    "linear_val_accuracy": f"{LINEAR}.val.accuracy",
    **{f"linear_{of}": f"{LINEAR}.test.{of}" for of in ("accuracy", "loss", "macro_f1")},
    **{"mcnemar_p": f"{LINEAR}.mcnemar_p", "best_epoch": "best_epoch", "val_loss": "val.loss"},
    **{"val_macro_f1": "metrics.val.macro_f1", "train_s": "train_seconds"},
    "linear_s": f"{LINEAR}.seconds",
}
DIGITS = {"mcnemar_p": 6, "train_s": 1, "linear_s": 1}


def run(name: str, settings: Sequence[str], config: str, seed: str) -> dict[str, object]:
    """Train once; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder) / "run"
        given = (f"seed={seed}", "linear_baseline=True", *settings)
        wall = rows.run_main([f"--config={config}", f"--workdir={workdir}"], given)
        result = pd.json_normalize(read_json(workdir / "result.json")).loc[0]
        train = read_json(workdir / "env.json")["data"]["reviews"]["train"]
    found = {name: round(result[at], DIGITS.get(name, 4)) for name, at in FOUND.items()}
    row = dict(zip(KEY, (name, config, seed, train), strict=True))
    return {**row, **found, "wall_s": round(wall, 1)}


def main(_: Sequence[str]) -> None:
    """Train what is not in the table yet, then print means over seeds beside the baseline."""
    sources = rows.sources(DATA.value)
    for count in (200, 1_000, 5_000) if IMDB.value else ():
        settings = ["data.source=tfds", f"data.path={IMDB.value}", f"data.limit={count}"]
        sources[f"IMDB {count:,}"] = settings
    output = Path(OUTPUT.value)
    found = rows.read(output, (*KEY, *FOUND, "wall_s"))
    done = {(row["data"], row["config"], row["seed"]) for row in found}
    for key in itertools.product(sources, CONFIGS.value, SEEDS.value):
        if key not in done:
            name, config, seed = key
            rows.append(output, run(name, [*sources[name], *SETTINGS.value], config, seed))
    groups = pd.read_csv(output).groupby(["data", "config"], sort=False)
    means = groups[["accuracy", "linear_accuracy", "wall_s"]].agg(["mean", "std"])
    print(means.round(4).to_string())


if __name__ == "__main__":
    app.run(main)
