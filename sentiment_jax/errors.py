"""The errors that main.py turns into one line and an exit code."""

import difflib
import errno
import os
from collections.abc import Iterable

# No more may be written: the disk is full, over quota, read-only or broken, or ulimit -f says so.
NO_MORE_WRITES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class InputError(Exception):
    """Bad input (config, data, weights, paths): one line, exit code 2."""

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).split())[:2000])  # names may hold anything


class InUse(InputError):
    """Another process holds the run directory."""


class TooLittleText(InputError):
    """There is too little unlabeled text to learn from."""


class RunError(Exception):
    """A run that started and failed (divergence, lost checkpoints, full disk): exit code 1."""


class Diverged(RunError):
    """The loss or the gradient of optimizer step `step` is not finite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class DiskFull(RunError):
    """The disk takes no more; the same command resumes the run later."""


class Interrupted(Exception):
    """A signal asked the run to end and its state is saved: exit code 143."""


def describe_shortage(error: Exception) -> str:
    """Return one line for an error due to the disk or too little memory, otherwise "".

    The text decides beside the number: Orbax and XLA wrap the error in types of their own.
    """
    if isinstance(error, DiskFull):
        return str(error)
    texts = map(os.strerror, NO_MORE_WRITES)
    if getattr(error, "errno", 0) in NO_MORE_WRITES or any(text in str(error) for text in texts):
        return f"disk full or failing: {error}; make room, run the same command again"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        reason = (str(error).splitlines() or ["none left"])[0]
        return f"out of memory: {reason}; lower batch_size or data.max_length"
    return ""


REMEDIES = {
    errno.EACCES: "ask its owner for the right to read and write it",
    errno.ENOENT: "it was moved or deleted meanwhile, name its new place",
    errno.EISDIR: "move that directory away",
    errno.ENOTDIR: "move that file away",
}


def describe_path(error: Exception) -> str:
    """Return one line for an error of the file system that says where it is, otherwise ""."""
    if not isinstance(error, OSError) or error.errno not in REMEDIES or error.filename is None:
        return ""
    return f"{error.strerror}: {error.filename2 or error.filename}: {REMEDIES[error.errno]}"


def did_you_mean(name: str, known: Iterable[str], shown: str = "{}") -> str:
    """Return "; did you mean X?" with the known name most like it, or "" if none is.

    Names are compared by their last part first: learning_rate or lr finds optimizer.learning_rate.
    """
    by_last_part: dict[str, list[str]] = {}
    for other in known:
        by_last_part.setdefault(other.rpartition(".")[2], []).append(other)
    last = name.rpartition(".")[2]
    close = difflib.get_close_matches(last, by_last_part, n=1)
    close = close or [p for p in by_last_part if last == "".join(w[:1] for w in p.split("_"))]
    if not close:
        return ""
    (best,) = difflib.get_close_matches(name, by_last_part[close[0]], n=1, cutoff=0)
    return f"; did you mean {shown.replace('{}', best)}?"
