"""The protocol between benchmarks/speed/pytorch.py and its sides; imports neither JAX nor PyTorch.

The first line on stdin is the job as JSON. The answer is the seconds to the end of the first pass,
which compiles or warms up. Then `run` makes two passes over the job's reviews and times the second.
The first is slower: during the other sides' turns the system reclaims freed memory, which does not
happen in training without pauses. `end` returns the peak memory.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np


def serve(make_passes: Callable[[dict[str, Any]], Iterator[Callable[[], int]]]) -> None:
    """Answer requests until `end`.

    Args:
      make_passes: maps a job to functions that each make one pass over its reviews, return their
        number, and return only when everything is computed.
    """
    start = time.perf_counter()
    passes = make_passes(json.loads(sys.stdin.readline()))
    next(passes)()
    _answer(first=time.perf_counter() - start)
    for line in sys.stdin:
        if line.strip() == "end":
            _answer(peak_bytes=peak_bytes())
            return
        next(passes)()
        make_pass = next(passes)
        start = time.perf_counter()
        examples = make_pass()
        _answer(rate=examples / (time.perf_counter() - start))


def peak_bytes() -> int:
    """Return this process's peak memory; getrusage would include the parent's."""
    with open("/proc/self/status", encoding="utf-8") as status:
        (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


def _answer(**values: float) -> None:
    print(json.dumps(values), flush=True)


class Side:
    """The process of one side, warmed up."""

    def __init__(self, module: str, python: str, job: dict[str, Any], cwd: str | None = None):
        """Start the process and wait until its first pass has ended."""
        from sentiment_jax.runtime import startup

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
