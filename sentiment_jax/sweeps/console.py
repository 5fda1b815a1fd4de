"""What a sweep says: its plan, a line and the time left whenever a trial ends, the result."""

import datetime
import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from sentiment_jax.errors import RunError
from sentiment_jax.storage.files import read_json, write_csv
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial, find_run, format_value

COLUMNS = ["seed", "status", "best_epoch", "val_loss", "val_accuracy"]
COLUMNS += ["test_loss", "test_accuracy", "reason", "run"]


class SweepProgress:
    """Prints a line for every trial that ends, whoever ran it, and the time that is left."""

    def __init__(self, sweep: Sweep, reviews: int):
        """Print the plan over so many training reviews, and how many trials have ended."""
        axes = "; ".join(
            f"{axis} {', '.join(map(format_value, values))}" for axis, values in sweep.axes.items()
        )
        epochs = max(sweep.axes.get("epochs", (sweep.config.epochs,)))
        self._total = sweep.count_trials()
        steps = epochs * math.ceil(reviews / min(sweep.axes["batch_size"]))
        folders = [*sweep.directory.glob("*/"), *sweep.directory.glob(f"{FINAL}/*/")]
        self._ended = {f for f in folders if RunDirectory(f).outcome()[0] != "open"}
        self._before, self._start = len(self._ended), time.monotonic()
        self._wall = self._compiling = 0.0  # seconds of the trials that ended since
        print(
            f"{'sweep':8} {sweep.directory}: {sweep.procedure} of {axes}\n"
            f"{'':8} the best by validation again with seeds {', '.join(map(str, sweep.seeds))}\n"
            f"{'':8} {self._total} runs of at most {epochs} epochs, {steps:,} steps or fewer "
            f"each, {self._total * steps:,} in all"
        )
        if self._ended:
            print(f"{'':8} {self._before} of {self._total} runs had ended before")
        sys.stdout.flush()

    def update(self, trials: Sequence[Trial]) -> None:
        """Print what is new among the trials of a stage."""
        for trial in trials:
            if trial.directory in self._ended or trial.refresh().status == "open":
                continue
            self._ended.add(trial.directory)
            done, seconds = len(self._ended), wall_seconds(trial)
            self._wall += seconds
            self._compiling += min(trial.content.get("compile_seconds", 0.0), seconds)
            # The trials to come find the programs compiled, or most of them.
            share = 1 - self._compiling / self._wall if self._wall else 1.0
            pace = share * (time.monotonic() - self._start) / (done - self._before)
            left = tqdm.format_interval(pace * (self._total - done))
            said = f"{_verdict(trial.row)}, {seconds:,.0f} s"
            line = f"{done:>3}/{self._total}  {trial.stage:13} {trial.label}: {said}"
            print(line + (f"  ETA {left}" if done < self._total else ""), flush=True)


def wall_seconds(trial: Trial) -> float:
    """Return how long an ended trial took, compilation and validation included.

    Of one that was stopped and resumed, the last part; 0 where it failed before it began.
    """
    if not trial.files.env.exists():
        return 0.0
    env, files = read_json(trial.files.env), (trial.files.result, trial.files.failed)
    began = datetime.datetime.fromisoformat(env.get("resumed", [env])[-1]["started"])
    ended = max(file.stat().st_mtime for file in files if file.exists())
    return max(ended - began.timestamp(), 0.0)


def _verdict(row: dict[str, Any]) -> str:
    if row["reason"] is not None:
        return f"FAILED: {row['reason']}"
    tested = row["test_accuracy"]
    return (
        f"validation accuracy {row['val_accuracy']:.4f} loss {row['val_loss']:.4f} "
        f"(epoch {row['best_epoch']})" + ("" if tested is None else f", test accuracy {tested:.4f}")
    )


def write_table(sweep: Sweep) -> list[dict[str, Any]]:
    """Write table.csv and return its rows; without times, equal sweeps give equal tables."""
    rows = [trial.row for trials in sweep.stages() for trial in trials]
    for row in rows:
        if row["step"] is not None:
            row["status"] = f"failed at step {row['step']}"
    columns = ["stage", *sweep.axes, *COLUMNS]
    table = ([row[column] for column in columns] for row in rows)
    write_csv(sweep.directory / "table.csv", columns, table)
    return rows


def conclude(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write table.csv and print what came of the last stage's `trials`; RunError if no winner."""
    for row in write_table(sweep):
        if row["reason"]:
            print(f"{'failed':8} {row['run']}: {row['reason']}")
    finished = [t.content for t in trials if t.refresh().status == "finished"]
    if trials[0].stage != FINAL or len(finished) < len(trials):
        raise RunError(
            f"{len(finished)} of the {len(trials)} runs of the {trials[0].stage} stage finished: "
            f"see {sweep.directory}/table.csv; --retry_failed tries the failed ones again"
        )
    accuracies = [result["test"]["accuracy"] for result in finished]
    spread = f" ± {statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    print(
        f"{'best':8} {trials[0].label.rpartition(',')[0]}\n"
        f"{'test':8} accuracy {statistics.mean(accuracies):.4f}{spread} "
        f"(mean and standard deviation over seeds {', '.join(map(str, sweep.seeds))})\n"
        f"{'winner':8} {find_run(sweep.directory)}, its best seed by validation: other modes take "
        f"--workdir={sweep.directory} for it\n"
        f"{'files':8} {sweep.directory}/table.csv; --mode=report makes tables, plots and a page "
        "of it"
    )
