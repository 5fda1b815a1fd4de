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
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas

from sentiment_jax import api
from sentiment_jax.data.dataset import load_dataset

ROOT = Path(__file__).parents[2]
SIDE = Path(__file__).with_name("side_onnx.py")
FILES = {"float32": "model.onnx", "int8": "model_quantized.onnx"}
ALONE = 100  # texts of a round that come one by one


def export(run: str, folder: Path) -> pandas.DataFrame:
    """Write a run's ONNX and transformers' folders and its training texts; return its test set."""
    model = api.load(run)
    splits = load_dataset(model.config.data).splits
    tables = {
        name: pandas.DataFrame({"text": of.texts, "label": [of.classes[i] for i in of.codes]})
        for name, of in splits.items()
    }
    if not (folder / "onnx").exists():
        model.export(folder / "onnx", "onnx")
        model.export(folder / "transformers")
        tables["train"].to_csv(folder / "train.csv", index=False)
    return tables["test"]


def start(side: str, run: str, folder: Path, python: str) -> subprocess.Popen:
    """Start the process of a side."""
    name = "serve" if side in FILES else side
    program = python if side in ("torch", "sentence_transformers") else sys.executable
    variables = {**os.environ, "FILE": FILES.get(side, ""), "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([program, SIDE, name, run, folder], env=variables, **pipes)


def ask(process: subprocess.Popen, texts: list[str | None]) -> dict[str, Any]:
    """Return a side's answer to a line of texts."""
    assert process.stdin and process.stdout
    print(json.dumps(texts), file=process.stdin, flush=True)
    return json.loads(process.stdout.readline())


def measure(
    key: dict[str, str], sides: dict[str, subprocess.Popen], started: dict[str, float],
    texts: list[str], rounds: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return a row of times for each side; the sides take turns."""
    found: dict[str, list[list[float]]] = {side: [] for side in sides}
    for _ in range(rounds):
        for side, process in sides.items():
            ask(process, [None, *texts[:10]])  # the other sides' turns have emptied the caches
            alone = np.array(ask(process, [None, *texts[:ALONE]])["seconds"]) * 1000
            answer = ask(process, texts)
            rate = len(texts) / answer["seconds"][0]
            megabytes = answer["bytes"] / 1e6
            found[side].append([*np.percentile(alone, (50, 99)), rate, megabytes])
    names = ("p50_ms", "p99_ms", "texts_per_second", "peak_mb")
    return [
        {**key, "side": side, "start_s": round(started[side], 2)}
        | dict(zip(names, np.median(of, axis=0).round(2), strict=True))
        for side, of in found.items()
    ]


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
        frame = export(run, folder)
        texts = frame["text"].tolist()
        key = {"data": name}
        sides, started = {}, {}
        for side in given.sides.split(","):
            begin = time.perf_counter()
            sides[side] = start(side, run, folder, given.torch_python)
            ask(sides[side], texts[:1])
            started[side] = time.perf_counter() - begin
            if not given.rounds:
                predicted = ask(sides[side], texts)["predicted"]
                sides.pop(side).terminate()
                right = np.mean(np.array(predicted) == frame["label"])
                rows.append({**key, "side": side, "texts": len(texts), "accuracy": round(right, 4)})
                print(rows[-1], flush=True)
        if given.rounds:
            rows += measure(key, sides, started, texts[: given.texts], given.rounds)
        for process in sides.values():
            process.terminate()
        pandas.DataFrame(rows).to_csv(given.output, index=False)
    print(pandas.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
