"""What a sweep says: its plan, a line and the time left whenever a trial ends, the result."""

import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sentiment_jax.errors import RunError
from sentiment_jax.storage.files import write_csv
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial


def describe_sweep(sweep: Sweep, reviews: int) -> None:
    """Print the plan of a sweep over `reviews` training reviews, and how much work it is."""
    axes = "; ".join(
        f"{axis} {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"
        for axis, values in sweep.axes.items()
    )
    epochs, total = sweep.config.epochs, sweep.count_trials()
    steps = epochs * math.ceil(reviews / min(sweep.axes["batch_size"]))
    print(f"{'sweep':8} {sweep.directory}: {sweep.procedure} of {axes}")
    print(f"{'':8} the best by validation again with seeds {', '.join(map(str, sweep.seeds))}")
    print(
        f"{'':8} {total} runs of at most {epochs} epochs, {steps:,} steps or fewer "
        f"each, {total * steps:,} in all",
        flush=True,
    )


class SweepProgress:
    """Prints a line for every trial that ends, whoever ran it, and the time that is left."""

    def __init__(self, sweep: Sweep):
        """Print how many trials have ended already."""
        self._directory, self._total = sweep.directory, sweep.count_trials()
        self._known = self._ended()
        self._before, self._start = len(self._known), time.monotonic()
        if self._known:
            print(f"{'':8} {self._before} of {self._total} runs had ended before", flush=True)

    def _ended(self) -> set[Path]:
        folders = (*self._directory.glob("*/"), *self._directory.glob(f"{FINAL}/*/"))
        return {folder for folder in folders if RunDirectory(folder).outcome()[0] != "open"}

    def update(self, trials: Sequence[Trial]) -> None:
        """Print what is new among the trials of a stage."""
        ended = self._ended() - self._known
        for trial in trials:
            if trial.directory not in ended:
                continue
            self._known.add(trial.directory)
            done = len(self._known)
            elapsed = time.monotonic() - self._start
            left = elapsed / (done - self._before) * (self._total - done)
            tqdm.write(
                f"{done:>3}/{self._total}  {trial.stage:13} {trial.label}: "
                + _verdict(trial.refresh().content)
                + (f"  ETA {_duration(left)}" if done < self._total else "")
            )
            sys.stdout.flush()


def _verdict(content: dict[str, Any]) -> str:
    if "reason" in content:
        return f"FAILED: {content['reason']}"
    tested = ""
    if "test" in content:
        tested = f", test accuracy {content['test']['accuracy']:.4f}"
    return (
        f"validation accuracy {content['val']['accuracy']:.4f} loss {content['val']['loss']:.4f} "
        f"(epoch {content['best_epoch']}){tested}, {content['train_seconds']:,.0f} s"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def write_table(sweep: Sweep) -> list[dict[str, Any]]:
    """Write table.csv, one row per trial; return the rows.

    No times stand in it, so that equal sweeps give equal tables.
    """
    rows = [_table_row(trial) for trials in sweep.stages() for trial in trials]
    write_csv(sweep.directory / "table.csv", list(rows[0]), [list(row.values()) for row in rows])
    return rows


def _table_row(trial: Trial) -> dict[str, Any]:
    content, status = trial.content, trial.status
    if content.get("step") is not None:
        status = f"failed at step {content['step']}"
    row = {"stage": trial.stage, **trial.setting, "seed": trial.config.seed, "status": status}
    row |= {"best_epoch": content.get("best_epoch"), **trial.scores}
    return {**row, "reason": content.get("reason"), "run": trial.directory.name}


def conclude(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Write table.csv and print what came out, `trials` being those of the last stage.

    Raises:
      RunError: no winner, or one that could not be trained again.
    """
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
    print(f"{'best':8} {trials[0].label.rpartition(',')[0]}")
    print(
        f"{'test':8} accuracy {statistics.mean(accuracies):.4f}{spread} "
        f"(mean and standard deviation over seeds {', '.join(map(str, sweep.seeds))})"
    )
    print(
        f"{'files':8} {sweep.directory}/table.csv; --mode=report makes tables, plots and a page "
        "of it"
    )
