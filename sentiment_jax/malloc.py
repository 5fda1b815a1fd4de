"""glibc's memory allocation, set for training on the CPU: a fifth to two fifths off a step.

A step fills hundreds of megabytes. With glibc's defaults they are fresh small pages every time, and
the faults take a good part of it.
"""

import os
import sys

# Huge pages; blocks below 128 MiB are kept when they are freed, in one heap for all threads.
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_threshold": 2**27,
        "trim_threshold": 2**33,
        "arena_max": 1,
    }.items()
)


def tune() -> None:
    """Starts this process again with TUNABLES, which glibc reads at the start of a process only.

    Set GLIBC_TUNABLES yourself, to anything, to be left alone.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, sys.orig_argv)
