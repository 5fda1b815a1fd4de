"""The encoder, the probe and peers on the same rows: seconds of whole commands, and accuracies.

    python -m benchmarks.accuracy.peers --output=results/accuracy/peers/runs.csv --runs=runs/peers \
        --data=products=products.csv,mr=mr.csv --weights=FOLDER --peers=.venv-peers/bin/python

The peers (peers_torch.py) run in the Python of --peers, which has torch, transformers, setfit and
scikit-learn. All read the splits of `data.split_seed`, of which `--labels` keeps some. Each run is
a process of its own. `cold` starts with an empty cache of compiled steps and linear baselines,
`warm` repeats the command with a full one.
"""

import itertools
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from absl import app, flags
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.accuracy import rows, splits
from sentiment_jax.storage.files import read_json

DATA = flags.DEFINE_list("data", None, rows.DATA, required=True)
METHODS = flags.DEFINE_list("methods", ["encoder", "encoder:probe", "trainer"], "what is run")
SETTINGS = flags.DEFINE_list("settings", [], "NAME=VALUE,... of every run")
LABELS = flags.DEFINE_integer("labels", 0, "labeled texts to keep outside the test split; 0: all")
DRAWS = flags.DEFINE_list("draws", ["0"], "splits (data.split_seed)")
SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds of the training")
WARM = flags.DEFINE_bool("warm", False, "repeat this project's commands with a warm cache")
WEIGHTS = flags.DEFINE_string("weights", None, "folder of a small encoder", required=True)
PEERS = flags.DEFINE_string("peers", sys.executable, "Python that has the peers")
RUNS = flags.DEFINE_string("runs", None, "folder of the runs", required=True)
OUTPUT = flags.DEFINE_string("output", None, "CSV file, a row per run", required=True)

PEER_METHODS = ("trainer", "trainer-3", "setfit", "sklearn")
KEY = ("data", "labels", "draw", "seed", "method", "cache")
COLUMNS = (*KEY, "train", "test", "accuracy", "macro_f1", "wall_s")


def run_peer(method: str, folder: Path, seed: str) -> tuple[float, float]:
    """Run a peer in its own Python; return its accuracy and macro F1 on the test split."""
    script = Path(__file__).with_name("peers_torch.py")
    command = [PEERS.value, str(script), method, str(folder), WEIGHTS.value, seed]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    text = {"dtype": str, "keep_default_na": False}
    predicted = pd.read_csv(folder / "predicted.csv", **text).predicted
    labels = pd.read_csv(folder / "test.csv", **text).label
    if labels.str.contains(";").any():  # several of a text
        held = labels.str.get_dummies(";")
        found = predicted.str.get_dummies(";").reindex(columns=held.columns, fill_value=0)
        labels, predicted = held.to_numpy(), found.to_numpy()
    return accuracy_score(labels, predicted), f1_score(labels, predicted, average="macro")


def run_recipe(
    recipe: str, settings: Mapping[str, str], workdir: Path, cache: Path
) -> tuple[float, float]:
    """Train by a recipe, with a cache of compiled steps and baselines; return the test's scores."""
    shutil.rmtree(workdir, ignore_errors=True)
    given = [f"model.pretrained={WEIGHTS.value}"]
    given += [f"{name}={value}" for name, value in settings.items()]
    environment = {
        "XDG_CACHE_HOME": str(cache),
        "JAX_COMPILATION_CACHE_DIR": str(cache / "xla"),
        "MPLCONFIGDIR": str(cache.parent / "matplotlib"),  # its fonts are sought once
    }
    rows.run_main([f"--config={recipe}", f"--workdir={workdir}"], given, **environment)
    result = read_json(workdir / "result.json")
    return result["test"]["accuracy"], result["metrics"]["test"]["macro_f1"]


def run(key: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, object]:
    """Train once by a method; return a row of the table."""
    method = key["method"]
    runs = Path(RUNS.value)
    name = "-".join((key["data"], key["labels"], key["draw"]))
    sizes = splits.write(settings, runs / name, WEIGHTS.value)
    start = time.perf_counter()
    if method in PEER_METHODS:
        scores = run_peer(method, runs / name, key["seed"])
    else:
        cache = runs / "cache" / method.replace(":", "-")
        if key["cache"] == "cold":
            shutil.rmtree(cache, ignore_errors=True)
        workdir = runs / f"{name}-run"
        scores = run_recipe(method, {**settings, "seed": key["seed"]}, workdir, cache)
    wall = time.perf_counter() - start
    counts = {"train": sizes["train"], "test": sizes["test"]}
    accuracy, macro_f1 = (round(float(score), 4) for score in scores)
    return {**key, **counts, "accuracy": accuracy, "macro_f1": macro_f1, "wall_s": round(wall, 1)}


def main(_: Sequence[str]) -> None:
    """Run what is not in the table yet, then print means over draws and seeds."""
    output = Path(OUTPUT.value)
    done = {tuple(row[name] for name in KEY) for row in rows.read(output, COLUMNS)}
    sources = rows.sources(DATA.value)
    for data, draw, seed, method in itertools.product(
        sources, DRAWS.value, SEEDS.value, METHODS.value
    ):
        given = [*sources[data], *SETTINGS.value]
        settings = dict(setting.split("=", 1) for setting in given)
        settings |= {"data.split_seed": draw, "data.limit": str(LABELS.value)}
        for cache in [""] if method in PEER_METHODS else ["cold", "warm"][: 1 + WARM.value]:
            values = (data, str(LABELS.value), draw, seed, method, cache)
            if values not in done:
                row = run(dict(zip(KEY, values, strict=True)), settings)
                rows.append(output, row)
                print(*row.values(), flush=True)
    groups = pd.read_csv(output, na_filter=False).groupby(["data", "labels", "method", "cache"])
    accuracy = groups["accuracy"].agg(["size", "mean", "std"])
    print(accuracy.round(4).assign(seconds=groups["wall_s"].median()).to_string())


if __name__ == "__main__":
    app.run(main)
