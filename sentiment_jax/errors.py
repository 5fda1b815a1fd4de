"""How a command may end early; main.py turns each into one line and an exit code."""

import difflib
from collections.abc import Iterable


class InputError(Exception):
    """Bad input (config, data, weights, paths): one line, exit code 2."""


class InUse(InputError):
    """Another process holds the run directory."""


class RunError(Exception):
    """A run that started and failed (divergence, lost checkpoints, full disk): exit code 1."""


class Diverged(RunError):
    """The loss or the gradient of optimizer step `step` is not finite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class DiskFull(RunError):
    """No room for a checkpoint: no fault of the run, the same command resumes it later."""


class Interrupted(Exception):
    """A signal asked the run to end and its state is saved: exit code 143."""


def did_you_mean(name: str, known: Iterable[str], shown: str = "{}") -> str:
    """Return "; did you mean X?" with the known name most like it; a last part counts twice."""

    def likeness(other: str) -> float:
        pairs = (name, other), (name.rpartition(".")[2], other.rpartition(".")[2])
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)

    best = max(known, key=likeness, default="")
    return f"; did you mean {shown.replace('{}', best)}?" if best and likeness(best) > 1 else ""
