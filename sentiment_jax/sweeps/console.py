"""What a sweep says: its plan, a line and the time left whenever a run ends, the result."""

import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sentiment_jax.errors import RunError
from sentiment_jax.storage.files import write_csv
from sentiment_jax.sweeps.plan import FINAL, Plan, Trial, iterate_stages

COLUMNS = (
    *("stage", "optimizer", "batch_size", "learning_rate", "seed", "status", "best_epoch"),
    *("val_loss", "val_accuracy", "test_loss", "test_accuracy", "reason", "run"),
)


def table_row(run: Trial) -> dict[str, Any]:
    """One line of a sweep's table; no times, so that equal sweeps give equal tables."""
    outcome = run.outcome()
    content = outcome.content
    row = {"stage": run.stage, **run.setting, "seed": run.config.seed, "status": outcome.status}
    row["best_epoch"] = content.get("best_epoch")
    for split in ("val", "test"):
        for name in ("loss", "accuracy"):
            row[f"{split}_{name}"] = content.get(split, {}).get(name)
    if content.get("step") is not None:
        row["status"] = f"failed at step {content['step']}"
    return {**row, "reason": content.get("reason"), "run": run.directory.name}


def describe_sweep(plan: Plan, directory: Path, reviews: int) -> None:
    """Prints the plan of a sweep over `reviews` training reviews, and how much work it is."""
    axes = "; ".join(
        f"{axis} {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}"
        for axis, values in plan.axes.items()
    )
    batch_sizes = plan.axes["batch_size"]
    steps = plan.config.epochs * math.ceil(reviews / min(batch_sizes))
    total = plan.count_runs()
    print(f"{'sweep':8} {directory}: {plan.procedure} of {axes}")
    print(f"{'':8} the best by validation again with seeds {', '.join(map(str, plan.seeds))}")
    print(
        f"{'':8} {total} runs of at most {plan.config.epochs} epochs, {steps:,} steps or fewer "
        f"each, {total * steps:,} in all",
        flush=True,
    )


class SweepProgress:
    """Prints a line for every run that ends, whoever ran it, and the time that is left."""

    def __init__(self, plan: Plan, directory: Path):
        self._plan, self._directory = plan, directory
        self._total = plan.count_runs()
        self._known = self._ended()
        self._before, self._start = len(self._known), time.monotonic()
        if self._known:
            print(f"{'':8} {self._before} of {self._total} runs had ended before", flush=True)

    def _ended(self) -> set[Path]:
        return {
            path.parent
            for folder in (self._directory, self._directory / FINAL)
            for name in ("result.json", "failed.json")
            for path in folder.glob(f"*/{name}")
        }

    def update(self, runs: list[Trial]) -> None:
        """Prints what is new among the runs of a stage."""
        ended = self._ended()
        for run in runs:
            if run.directory not in ended or run.directory in self._known:
                continue
            self._known.add(run.directory)
            done = len(self._known)
            elapsed = time.monotonic() - self._start
            left = elapsed / (done - self._before) * (self._total - done)
            tqdm.write(
                f"{done:>3}/{self._total}  {run.stage:13} {run.label}: {_verdict(run)}"
                + (f"  ETA {_duration(left)}" if done < self._total else "")
            )
            sys.stdout.flush()


def _verdict(run: Trial) -> str:
    content = run.outcome().content
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


def write_table(plan: Plan, directory: Path) -> list[dict[str, Any]]:
    """Writes table.csv, a row a run; returns the rows."""
    rows = [table_row(run) for runs in iterate_stages(plan, directory) for run in runs]
    write_csv(directory / "table.csv", COLUMNS, ([row[c] for c in COLUMNS] for row in rows))
    return rows


def conclude(plan: Plan, directory: Path, runs: list[Trial]) -> None:
    """Prints and writes what came out.

    Raises:
      RunError: no winner, or one that could not be trained again.
    """
    rows = write_table(plan, directory)
    for row in rows:
        if row["reason"]:
            print(f"{'failed':8} {row['run']}: {row['reason']}")
    finished = [run.outcome().content for run in runs if run.outcome().status == "finished"]
    if runs[0].stage != FINAL or len(finished) < len(runs):
        raise RunError(
            f"{len(finished)} of the {len(runs)} runs of the {runs[0].stage} stage finished: see "
            f"{directory}/table.csv; --retry_failed tries the failed ones again"
        )
    accuracies = [result["test"]["accuracy"] for result in finished]
    spread = f" ± {statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    print(f"{'best':8} {runs[0].label.rpartition(',')[0]}")
    print(
        f"{'test':8} accuracy {statistics.mean(accuracies):.4f}{spread} "
        f"(mean and standard deviation over seeds {', '.join(map(str, plan.seeds))})"
    )
    print(f"{'files':8} {directory}/table.csv; --mode=report makes tables, plots and a page of it")
