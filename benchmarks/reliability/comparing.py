"""Compare two directories of runs, sweeps or comparisons bit for bit, except for timings."""

import collections
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import file_sha256, read_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory

TIMES = ("train_seconds", "compile_seconds", "test_seconds")


def checkpoints_of(workdir: Path) -> dict[int, Any]:
    """Return step -> (params, opt_state) as numpy arrays, for all checkpoints of a run.

    Raises:
      AssertionError: one of them is damaged.
    """
    kept = Checkpoints(workdir / "checkpoints", read_only=True)
    faults = [fault for step in kept.steps if (fault := kept.fault(step))]
    assert not faults, faults
    return {
        step: [kept.read(step, item) for item in ("params", "opt_state")] for step in kept.steps
    }


def results_of(workdir: Path) -> dict[str, Any]:
    """Return a run's metrics, result and files, without timings."""
    read = {"metrics": [], "result": {}, "files": {}}
    for record in read_metrics(workdir / "metrics.jsonl"):
        read["metrics"].append({k: v for k, v in record.items() if k != "seconds"})
    result = read_json(workdir / "result.json")
    read["result"] = {k: v for k, v in result.items() if k not in (*TIMES, "metrics_sha256")}
    own = RunDirectory(workdir)
    for path in (own.config, own.tokenizer, *own.predictions.values(), own.probabilities):
        if path.exists():
            read["files"][path.name] = file_sha256(path)
    return read


def difference(expected: Path, found: Path) -> str:
    """Describe the first difference between an uninterrupted run and another; empty if equal."""
    states = [checkpoints_of(workdir) for workdir in (expected, found)]
    if states[0].keys() != states[1].keys():
        return f"checkpoints of the steps {list(states[1])} instead of {list(states[0])}"
    for step in states[0]:
        leaves = [jax.tree.leaves(state[step]) for state in states]
        same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), *leaves)
        if not all(same):
            return f"parameters or optimizer state of step {step}: {same.count(False)} tensors"
    results = [results_of(workdir) for workdir in (expected, found)]
    lines = collections.Counter((r["step"], r["split"]) for r in results[1]["metrics"])
    if repeated := [line for line, count in lines.items() if count > 1]:
        return f"metrics.jsonl has {repeated[:5]} more than once"
    for kind in results[0]:
        if json.dumps(results[0][kind]) != json.dumps(results[1][kind]):
            return f"{kind} of {found}"
    return ""


def difference_of_all(
    expected: Path, found: Path, skipped: Callable[[Path], bool] = lambda run: False
) -> str:
    """Describe the first difference between two directories, in a table or a run: folds, trials.

    `skipped` says of a run's path in them whether it is left out.
    """
    for name in ("table.csv", "comparison.csv"):
        if (expected / name).exists() and _rows(expected / name) != _rows(found / name):
            return name
    for result in sorted(expected.rglob("result.json")):
        run = result.parent.relative_to(expected)
        if not skipped(run) and (wrong := difference(expected / run, found / run)):
            return f"{run}: {wrong}"
    return ""


def _rows(table: Path) -> list[dict[str, str]]:
    timed = ("train_seconds", "compile_seconds", "texts_per_second")
    with table.open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k not in timed} for row in csv.DictReader(file)]


def contents(directory: Path) -> dict[Path, tuple[bytes, int]]:
    """Return every file below a directory with its bytes and modification time."""
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }
