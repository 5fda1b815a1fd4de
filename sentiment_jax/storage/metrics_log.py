"""metrics.jsonl: one JSON object per line, each (step, split) once; TensorBoard's event files too.

The event files are written by tensorboardX, which needs no TensorFlow.
"""

import contextlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

from sentiment_jax.errors import InputError
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import write_atomically


class MetricsLog:
    """Appends to metrics.jsonl, and to the `records` that a checkpoint keeps of it."""

    def __init__(self, path: Path, records: list[dict[str, Any]]):
        """Write the file anew with the records so far."""
        self._path = path
        self.records = records
        self._events: Any = None  # tensorboardX's SummaryWriter
        write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))

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
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite, allow_nan=False) + "\n")
        self.records.append(finite)
        if self._events is not None:
            self._write_events(finite)

    def open_events(self, folder: Path, cleanup: contextlib.ExitStack) -> None:
        """Write event files as well, anew with the records so far; `cleanup` closes them."""
        from tensorboardX import SummaryWriter

        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        # purge_step: a TensorBoard that watches the folder forgets what it has read.
        self._events = cleanup.enter_context(SummaryWriter(str(folder), purge_step=0))
        for record in self.records:
            self._write_events(record)

    def _write_events(self, record: dict[str, Any]) -> None:
        for name, value in record.items():
            if name not in ("step", "split") and value is not None:
                self._events.add_scalar(f"{record['split']}/{name}", value, record["step"])
        self._events.flush()


def check_tensorboard() -> None:
    """Raise InputError unless event files can be written."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--tensorboard needs tensorboardX: pip install tensorboardX")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read all complete lines of a metrics.jsonl; a line that a kill cut short is left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records
