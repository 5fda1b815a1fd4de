"""The protocol between benchmarks/speed/pytorch.py and its sides; imports neither JAX nor PyTorch.

The first line on stdin is the job as JSON. The answer is the seconds to the end of the first pass,
which compiles or warms up. Then `run` makes two passes over the job's reviews and times the second.
The first is slower: during the other sides' turns the system reclaims freed memory, which does not
happen in training without pauses. `end` returns the peak memory.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


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
