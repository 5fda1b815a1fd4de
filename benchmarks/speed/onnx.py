"""Score and time the ONNX files of runs beside the runs themselves, PyTorch and scikit-learn.

    python -m benchmarks.speed.onnx --output=onnx.csv --folder=FOLDER --torch_python=PYTHON \
        --data=trec=RUN,mr=RUN --sides=ours,float32,int8

Each run is exported to FOLDER first, once. Each side is a process (side_onnx.py). By default they
are scored, one after another, on all test texts. With --rounds they are timed instead: all live at
once and take turns. A row has the seconds from the start of a side's process to its first answer,
and the medians over the rounds of: the median and the 99th percentile of one text's milliseconds,
the texts per second of all texts, and the peak memory in MB. A round has --texts texts, and 100 of
them come one by one before.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from benchmarks.accuracy.splits import tabulate
from benchmarks.speed.serve import Side
from sentiment_jax import api
from sentiment_jax.data.dataset import load_dataset

PEERS = ("torch", "sentence_transformers")
ALONE = 100  # texts of a round that come one by one
TIMES = ("p50_ms", "p99_ms", "texts_per_second", "peak_mb")


def export(run: str, folder: Path) -> pandas.DataFrame:
    """Write a run's ONNX and transformers' folders and its training texts; return its test set."""
    model = api.load(run)
    splits = load_dataset(model.config.data).splits
    if not (folder / "onnx").exists():
        model.export(folder / "onnx", "onnx")
        model.export(folder / "transformers")
        tabulate(splits["train"]).to_csv(folder / "train.csv", index=False)
    return tabulate(splits["test"])


def ask(side: Side, texts: list[str], *, alone: bool = False) -> dict[str, Any]:
    """Return a side's answer to texts, which come together or one by one."""
    return side.ask(json.dumps([None, *texts] if alone else texts))


def score(side: Side, test: pandas.DataFrame) -> dict[str, Any]:
    """Return a side's accuracy on the test texts."""
    predicted = ask(side, test["text"].tolist())["predicted"]
    right = np.array(predicted) == test["label"]
    return {"texts": len(test), "accuracy": round(right.mean(), 4)}


def take_turns(sides: list[Side], texts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Return the medians of each side's times over the rounds."""
    found: list[list[list[float]]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, of in zip(sides, found, strict=True):
            ask(side, texts[:10], alone=True)  # the other sides' turns have emptied the caches
            alone = ask(side, texts[:ALONE], alone=True)["seconds"]
            together = ask(side, texts)
            milliseconds = np.percentile(alone, (50, 99)) * 1000
            rate = len(texts) / together["seconds"][0]
            of.append([*milliseconds, rate, together["bytes"] / 1e6])
    medians = [np.median(of, axis=0).round(2) for of in found]
    return [dict(zip(TIMES, of, strict=True)) for of in medians]


def main() -> None:
    """Score or time all sides on all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "output", "folder"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--sides", default="ours,float32,int8")
    parser.add_argument("--torch_python", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--texts", type=int, default=1000)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for item in given.data.split(","):
        name, run = item.split("=")
        folder = Path(given.folder, name)
        test = export(run, folder)
        texts = test["text"].tolist()[: given.texts]
        job = {"run": run, "exported": str(folder), "text": texts[0]}
        found = []
        alive = []
        for side in given.sides.split(","):
            begin = time.perf_counter()
            python = given.torch_python if side in PEERS else sys.executable
            process = Side("speed.side_onnx", python, job | {"side": side})
            row = {"data": name, "side": side, "start_s": round(time.perf_counter() - begin, 2)}
            found.append(row)
            if given.rounds:
                alive.append(process)
            else:
                row |= score(process, test)
                process.process.terminate()
        for row, times in zip(found, take_turns(alive, texts, given.rounds), strict=False):
            row |= times
        for process in alive:
            process.process.terminate()
        rows += found
        pandas.DataFrame(rows).to_csv(given.output, index=False)
    print(pandas.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
