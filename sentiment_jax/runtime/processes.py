"""Several processes as one run: joining, waiting for each other, and saying who was lost.

Process 0 writes what a run writes; the others compute with it and keep still. JAX is imported only
where there are several: a run of one process pays nothing for what stands here.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Iterator

LEAVE_SECONDS = 3  # for the others to fail alike, before this one is missed
_index, _count, _lost_after = 0, 1, 0


def join(index: int, count: int, lost_after: int) -> None:
    """Notes where this process stands in its run."""
    global _index, _count, _lost_after
    _index, _count, _lost_after = index, count, lost_after


def is_main() -> bool:
    """Whether this process writes logs and files; True where it is alone."""
    return _index == 0


def count() -> int:
    """The number of processes of the run."""
    return _count


def barrier() -> None:
    """Waits until all processes are here."""
    if _count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("sentiment_jax")


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Lets process 0 go through a block alone; the others follow, and see what it wrote."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def leave(code: int) -> int:
    """Ends this process of several with an exit code, giving the others a moment to end too."""
    if _count > 1:
        import jax

        sys.stdout.flush()
        sys.stderr.flush()
        timer = threading.Timer(LEAVE_SECONDS, os._exit, (code,))
        timer.start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        os._exit(code)
    return code


def explain(error: Exception) -> None:
    """Where a collective broke, waits for the coordinator to say who was lost: that ends this."""
    if _count > 1 and re.search(r"gloo|nccl|collective|coordination|barrier", str(error), re.I):
        time.sleep(_lost_after + 2 * LEAVE_SECONDS)
