"""What a sweep prints: its plan, a line and the time left when a trial ends, and the result."""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from sentiment_jax.errors import RunError
from sentiment_jax.storage.files import write_csv
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial, find_run, format_value

COLUMNS = ["seed", "status", "best_epoch", "val_loss", "val_accuracy"]
COLUMNS += ["test_loss", "test_accuracy", "reason", "run"]


class SweepProgress:
    """Prints a line for every trial that ends, whichever process trained it, and the time left."""

    def __init__(self, sweep: Sweep, reviews: int):
        """Print the plan for so many training reviews, and how many trials have ended."""
        axes = "; ".join(
            f"{axis} {', '.join(map(format_value, values))}" for axis, values in sweep.axes.items()
        )
        epochs = max(sweep.axes.get("epochs", (sweep.config.epochs,)))
        steps = epochs * math.ceil(reviews / min(sweep.axes["batch_size"]))
        self._total = sweep.count_trials()
        runs = sweep.run_directories()
        self._ended = {run.path for run in runs if run.outcome()[0] != "open"}
        self._ended_before = len(self._ended)
        self._start = time.monotonic()
        print(
            f"{'sweep':8} {sweep.directory}: {sweep.procedure} of {axes}\n"
            f"{'':8} the best by validation again with seeds {', '.join(map(str, sweep.seeds))}\n"
            f"{'':8} {self._total} trials of at most {epochs} epochs, {steps:,} steps or fewer "
            f"each, {self._total * steps:,} in all"
        )
        if self._ended:
            print(f"{'':8} {self._ended_before} of {self._total} trials had ended before")
        sys.stdout.flush()

    def update(self, trials: Sequence[Trial]) -> None:
        """Print a line for each trial of a stage that has ended since the last call."""
        for trial in trials:
            if trial.directory in self._ended or trial.refresh().status == "open":
                continue
            self._ended.add(trial.directory)
            ended = len(self._ended)
            line = f"{ended:>3}/{self._total}  {trial.stage:13} {trial.label}: "
            line += _describe(trial.row)
            if ended < self._total:
                elapsed = time.monotonic() - self._start
                left = elapsed / (ended - self._ended_before) * (self._total - ended)
                line += f"  ETA {tqdm.format_interval(left)}"
            print(line, flush=True)


def _describe(row: dict[str, Any]) -> str:
    if row["reason"] is not None:
        return f"FAILED: {row['reason']}"
    scores = f"validation accuracy {row['val_accuracy']:.4f} loss {row['val_loss']:.4f}"
    tested = "" if row["test_accuracy"] is None else f", test accuracy {row['test_accuracy']:.4f}"
    return f"{scores} (epoch {row['best_epoch']}){tested}, {row['train_seconds']:,.0f} s"


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
    """Write table.csv and print the result of the last stage's trials; RunError if no winner."""
    for row in write_table(sweep):
        if row["reason"]:
            print(f"{'failed':8} {row['run']}: {row['reason']}")
    finished = [trial.content for trial in trials if trial.refresh().status == "finished"]
    if trials[0].stage != FINAL or len(finished) < len(trials):
        raise RunError(
            f"{len(finished)} of the {len(trials)} trials of the {trials[0].stage} stage finished: "
            f"see {sweep.directory}/table.csv; --retry_failed tries the failed ones again"
        )
    accuracies = [result["test"]["accuracy"] for result in finished]
    deviation = f" ± {statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    print(
        f"{'best':8} {trials[0].label.rpartition(',')[0]}\n"
        f"{'test':8} accuracy {statistics.mean(accuracies):.4f}{deviation} "
        f"(mean and standard deviation over seeds {', '.join(map(str, sweep.seeds))})\n"
        f"{'winner':8} {find_run(sweep.directory)}, its best seed by validation: other modes take "
        f"--workdir={sweep.directory} for it\n"
        f"{'files':8} {sweep.directory}/table.csv; --mode=report makes tables, plots and a page"
    )
