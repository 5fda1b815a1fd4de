"""metrics.jsonl: one JSON object per line, each (step, split) once."""

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import write_atomically


class MetricsLog:
    """Appends to metrics.jsonl, and to the records that a checkpoint keeps of it.

    The file stays open. If another process takes the run over, it replaces the file; a line that
    this process appends later ends in the file that was replaced. `listeners` are functions that
    are called with every new record.
    """

    def __init__(self, path: Path, records: list[dict[str, Any]]):
        """Write the file anew with the records so far."""
        self._records = records
        if processes.is_main():
            write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
            self._file = path.open("a", encoding="utf-8")
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def write(self, **record: Any) -> None:
        """Append one line: step, epoch, split, loss, accuracy, examples, seconds, learning_rate.

        A number that is not finite becomes null: the file is strict JSON.
        """
        if not processes.is_main():
            return
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in record.items()
        }
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        self._records.append(finite)
        for listener in self.listeners:
            listener(finite)

    def close(self) -> None:
        """Close the file."""
        if processes.is_main():
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines of a metrics.jsonl; one that a kill cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records
