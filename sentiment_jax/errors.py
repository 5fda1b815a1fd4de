"""The two ways a command may fail; main.py turns each into one line and an exit code."""


class InputError(Exception):
    """Bad input (config, data, weights, paths): one line, exit code 2."""


class RunError(Exception):
    """A run that started and failed (divergence, lost checkpoints, full disk): exit code 1."""
