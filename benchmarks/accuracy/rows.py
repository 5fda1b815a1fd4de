"""What the benchmarks of accuracy share: data sets, commands, and a table that goes on."""

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

PATHS = ("path", "test_path", "validation_path")
DATA = "NAME=CSV[:TEST_CSV[:VALIDATION_CSV]],..."


def sources(entries: Iterable[str]) -> dict[str, list[str]]:
    """Return the settings, NAME=VALUE, of each data set of a flag like DATA."""
    named = (entry.partition("=") for entry in entries)
    return {
        name: [f"data.{of}={path}" for of, path in zip(PATHS, paths.split(":"), strict=False)]
        for name, _, paths in named
    }


def run_main(arguments: Iterable[str], settings: Iterable[str], **environment: str) -> float:
    """Run a command of the package, as a user would start it; return its seconds."""
    command = [sys.executable, "-m", "sentiment_jax.main", *arguments]
    command += [f"--config.{setting}" for setting in settings]
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    subprocess.run(command, check=True, stdout=quiet, env={**os.environ, **environment})
    return time.perf_counter() - start


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of the table, which is begun if it is not there."""
    if not path.exists():
        path.write_text(",".join(columns) + "\n", encoding="utf-8")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Mapping[str, object]) -> None:
    """Write one more row, in the order of its columns."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, list(row), lineterminator="\n").writerow(row)
