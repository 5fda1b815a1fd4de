"""Several processes as one run: waiting for each other, and leaving together.

Every process reads the data and takes every step, on its devices' rows of each batch. Only number
0, the main process, writes logs, files and stdout; all write errors and their part of a checkpoint.
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
    """Note where this process stands, and after how many seconds of silence others are lost."""
    global _index, _count, _lost_after
    _index, _count, _lost_after = index, count, lost_after


def is_main() -> bool:
    """Return whether this process writes logs and files; True where it is alone."""
    return _index == 0


def count() -> int:
    """Return the number of processes of the run."""
    return _count


def barrier() -> None:
    """Wait until all processes are here."""
    if _count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("sentiment_jax")


@contextlib.contextmanager
def in_turn() -> Iterator[None]:
    """Let the main process go through a block first; the others follow, and see what it wrote."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def leave(code: int) -> int:
    """Return the code where the process is alone; else end with it, letting the others end too."""
    if _count > 1:
        import jax

        sys.stdout.flush()
        sys.stderr.flush()
        threading.Timer(LEAVE_SECONDS, os._exit, (code,)).start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        os._exit(code)
    return code


def await_loss(error: Exception) -> None:
    """Where a collective broke, wait: the coordinator knows who was lost and ends this process."""
    if _count > 1 and re.search(r"gloo|nccl|collective|coordination|barrier", str(error), re.I):
        time.sleep(_lost_after + 2 * LEAVE_SECONDS)
