"""How a contestant of benchmarks/speed.py talks to it; imports neither JAX nor PyTorch.

First line on stdin: the job as JSON. Answer: the seconds to the end of the first pass, which
compiles or warms up. Then `run` works through the job's reviews twice and times the second pass:
while the others have their turn, the system takes back freed memory, which costs the first one time
that training, going on without a pause, does not lose. `end` gives the peak memory.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any


def serve(make_passes: Callable[[dict[str, Any]], Iterator[Callable[[], int]]]) -> None:
    """Answer until `end`.

    Args:
      make_passes: from a job to functions that each work through its reviews once, return their
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
        once, start = next(passes), time.perf_counter()
        examples = once()
        _answer(rate=examples / (time.perf_counter() - start))


def peak_bytes() -> int:
    """This process's own; getrusage would count the one that it was started from."""
    with open("/proc/self/status", encoding="utf-8") as status:
        (kilobytes,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(kilobytes) * 1024


def _answer(**values: float) -> None:
    print(json.dumps(values), flush=True)
