"""How a command may end early; main.py turns each into one line and an exit code."""


class InputError(Exception):
    """Bad input (config, data, weights, paths): one line, exit code 2."""


class InUse(InputError):
    """Another process holds the run directory."""


class RunError(Exception):
    """A run that started and failed (divergence, lost checkpoints, full disk): exit code 1."""


class Diverged(RunError):
    """The loss or the gradient of optimiser step `step` is not finite."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class DiskFull(RunError):
    """No room for a checkpoint: no fault of the run, the same command resumes it later."""


class Interrupted(Exception):
    """A signal asked the run to end and its state is saved: exit code 143."""
