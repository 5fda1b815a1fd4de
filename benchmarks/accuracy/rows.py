"""A CSV table of runs that a benchmark goes on with where it was stopped."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


def read(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of the table, which is begun if it is not there."""
    if not path.exists():
        path.write_text(",".join(columns) + "\n", encoding="utf-8")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: Mapping[str, object]) -> dict[str, str]:
    """Write one more row, in the order of its columns, and return it as `read` would."""
    with path.open("a", newline="", encoding="utf-8") as file:
        csv.DictWriter(file, list(row), lineterminator="\n").writerow(row)
    return {name: str(value) for name, value in row.items()}
