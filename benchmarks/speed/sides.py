"""The other end of serve.py: a side's process, and the jobs that it is given."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from sentiment_jax.runtime import startup


class Side:
    """The process of one side, warmed up."""

    def __init__(self, module: str, python: str, job: dict[str, Any], cwd: str | None = None):
        """Start the process and wait until its first pass has ended."""
        self.process = subprocess.Popen(
            [python, "-m", f"benchmarks.{module}"],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # main.py sets the same for itself; both sides gain from it.
            env={**os.environ, "GLIBC_TUNABLES": startup.TUNABLES},
        )
        self.first_seconds = self.ask(json.dumps(job))["first"]

    def ask(self, line: str) -> dict[str, Any]:
        """Send a line and return the answer."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.process.args} ended before it answered")
        return json.loads(answer)

    def end(self) -> int:
        """End the process and return its peak memory in bytes."""
        peak = self.ask("end")["peak_bytes"]
        self.process.wait()
        return peak


def random_job(folder: Path, what: str, rows: int, length: int, **job: Any) -> dict[str, Any]:
    """Return a job on rows of random tokens."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 30000, (rows, length)).astype(np.int32)
    labels = rng.integers(0, 2, rows).astype(np.int32)
    job |= {"buckets": [length], "cpu_devices": 1, "optimizer": "adamw"}
    return write_job(folder, what, ids, labels, **job)


def write_job(folder: Path, what: str, ids: Any, labels: np.ndarray, **job: Any) -> dict[str, Any]:
    """Write the reviews of a job for its sides to read; return the job."""
    path = folder / f"{len(list(folder.iterdir()))}.npz"
    offsets = np.cumsum([0, *map(len, ids)])
    np.savez(path, token_ids=np.concatenate(ids), offsets=offsets, labels=labels)
    return {"what": what, "data": str(path), **job}
