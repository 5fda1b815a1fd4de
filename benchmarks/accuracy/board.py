"""The board: the best test accuracy within a budget of seconds, on two CPU cores.

    python -m benchmarks.accuracy.board --budget=10,30,60,300 --runs=runs/board --weights=FOLDER \
        --data=trec=trec.csv:trec-test.csv,mr=mr.csv --output=results/accuracy/board/board.csv

An entry is a file of bash commands in entries/ beside this file. It finds train.csv, val.csv and
test.csv in $FOLDER, a small pretrained encoder in $WEIGHTS, and writes $FOLDER/predicted.csv, whose
column `predicted` has a class for each row of test.csv. $PYTHON is this project's, $PEERS that of
--peers, $SEED the seed. To choose by the test's labels is cheating.

The seconds are those of the whole command, from the start of its first process, with empty caches.
Entries run one after another and are killed at the largest budget. One that fails, for example
because --peers has no setfit, has no accuracy and prints its last line. Beside the table a PNG
shows accuracy against seconds. The same command goes on with a table that was stopped.
"""

import argparse
import itertools
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas

from benchmarks.accuracy import rows, splits
from sentiment_jax.analysis import figures

ENTRIES = Path(__file__).with_name("entries")
ROOT = Path(__file__).parents[2]
KEY = ("data", "entry", "seed")
COLUMNS = (*KEY, "train", "test", "accuracy", "seconds")
CORES = 2


def run(script: Path, folder: Path, variables: Mapping[str, str], budget: float) -> float:
    """Run an entry with empty caches; return its seconds, infinity if it failed or was killed."""
    with tempfile.TemporaryDirectory() as cache, (folder / "log.txt").open("w") as log:
        environment = {**os.environ, **variables, "FOLDER": str(folder), "XDG_CACHE_HOME": cache}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        start = time.perf_counter()
        options = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(["bash", "-eu", script], start_new_session=True, **options)
        try:
            code = process.wait(budget)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return float("inf")
    return time.perf_counter() - start if code == 0 else float("inf")


def enter(
    key: Mapping[str, str], settings: Mapping[str, str], given: argparse.Namespace
) -> dict[str, object]:
    """Run one entry on one table; return its row of the board."""
    folder = (given.runs / "-".join(key.values())).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    sizes = splits.write(settings, folder, str(given.weights))
    variables = {"PYTHON": sys.executable, "PEERS": given.peers, "SEED": key["seed"]}
    variables["WEIGHTS"] = str(given.weights.resolve())
    budget = max(given.budget)
    seconds = run(ENTRIES / f"{key['entry']}.sh", folder, variables, budget)
    counts = {"train": sizes["train"], "test": sizes["test"]}
    row = {**key, **counts, "accuracy": "", "seconds": ""}
    if seconds > budget:
        last = (folder / "log.txt").read_text(errors="replace").strip().splitlines()[-1:]
        print(f"{folder.name}: no predictions within {budget:g} s:", *last, flush=True)
        return row
    predicted, labels = (
        pandas.read_csv(folder / file, dtype=str, keep_default_na=False)[name].tolist()
        for file, name in (("predicted.csv", "predicted"), ("test.csv", "label"))
    )
    right = [a == b for a, b in zip(predicted, labels, strict=True)]
    return {**row, "accuracy": round(statistics.mean(right), 4), "seconds": round(seconds, 1)}


def average(table: Sequence[Mapping[str, str]]) -> pandas.DataFrame:
    """Return the means over seeds of accuracy and seconds, the fastest first.

    An entry that was not done with one of the seeds is left out.
    """
    scores = pandas.DataFrame(table).replace("", "nan")
    scores = scores.astype({"accuracy": float, "seconds": float})
    means = scores.groupby(["data", "entry"], sort=False)[["accuracy", "seconds"]]
    return means.mean(skipna=False).dropna().sort_values("seconds").reset_index()


def draw(board: pandas.DataFrame, budgets: Sequence[float], path: Path) -> None:
    """Draw accuracy against seconds for each table; a line has the best so far."""
    pairs = zip(figures.COLORS, figures.MARKERS, strict=True)
    styles = dict(zip(sorted({*board.entry}), itertools.cycle(pairs), strict=False))
    tables = dict([*board.groupby("data")])
    handles = {}
    with figures.panels(path, figures.WIDTH, 2.4 * len(tables) + 0.9, nrows=len(tables)) as panels:
        for axes, (data, scores) in zip(panels[:, 0], tables.items(), strict=True):
            best = scores.accuracy.cummax()
            axes.step(scores.seconds, best, where="post", color="0.6", zorder=0)
            for row in scores.itertuples():
                color, marker = styles[row.entry]
                axes.plot(row.seconds, row.accuracy, marker, color=color)
                handles[row.entry] = axes.lines[-1]
            axes.set(title=data, xscale="log", ylabel="test accuracy")
            axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
            axes.minorticks_off()
            axes.grid()
        axes.set_xlabel("seconds of the whole command")
        axes.figure.legend(handles.values(), handles, loc=figures.BELOW, ncols=3)


def main() -> None:
    """Run what is not in the table yet; print who leads at each budget, and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=lambda given: [float(s) for s in given.split(",")])
    parser.add_argument("--data", type=lambda given: given.split(","))
    parser.add_argument("--seeds", type=lambda given: given.split(","), default=["0"])
    for name in ("--weights", "--runs", "--output"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--peers", default=sys.executable)
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    done = {tuple(row[name] for name in KEY) for row in rows.read(given.output, COLUMNS)}
    sources = rows.sources(given.data)
    entries = sorted(path.stem for path in ENTRIES.glob("*.sh"))
    for data, seed, entry in itertools.product(sources, given.seeds, entries):
        if (data, entry, seed) not in done:
            key = dict(zip(KEY, (data, entry, seed), strict=True))
            settings = dict(setting.split("=", 1) for setting in sources[data])
            row = enter(key, settings, given)
            rows.append(given.output, row)
            print(*row.values(), flush=True)
    board = average(rows.read(given.output, COLUMNS))
    for data, budget in itertools.product(dict.fromkeys(board.data), given.budget):
        within = board[(board.data == data) & (board.seconds <= budget)]
        best = within.sort_values("accuracy", kind="stable", ascending=False).head(1)
        print(f"{data}, {budget:g} s:", *best.entry, *best.accuracy.map("{:.4f}".format))
    draw(board, given.budget, given.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
