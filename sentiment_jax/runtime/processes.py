"""Several processes as one run: waiting for each other, and ending together.

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

SHUTDOWN_SECONDS = 3  # for the others to fail alike, before this one is missed
_index = 0
_count = 1
_lost_after = 0


def initialize(index: int, count: int, lost_after: int) -> None:
    """Set this process's number, and after how many seconds of silence others are lost."""
    global _index, _count, _lost_after
    _index = index
    _count = count
    _lost_after = lost_after


def is_main() -> bool:
    """Return whether this process writes logs and files; True if it is the only one."""
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
def main_process_first() -> Iterator[None]:
    """Run a block in the main process; then in the others, which see what it wrote."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def shutdown(code: int) -> int:
    """Return the exit code if this is the only process; else end it, letting the others end too."""
    if _count > 1:
        import jax

        sys.stdout.flush()
        sys.stderr.flush()
        threading.Timer(SHUTDOWN_SECONDS, os._exit, (code,)).start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()
        os._exit(code)
    return code


def wait_for_coordinator(error: Exception) -> None:
    """After a failed collective, wait: the coordinator finds the lost process and ends this one."""
    if _count > 1 and re.search(r"gloo|nccl|collective|coordination|barrier", str(error), re.I):
        time.sleep(_lost_after + 2 * SHUTDOWN_SECONDS)
