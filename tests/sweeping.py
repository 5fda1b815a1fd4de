"""Shared by tests of sweeps: axes with a known best setting, a training that does nothing."""

from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.run_directory import lock_run

AXES = {
    "procedure": "grid",
    "optimizer": ("sgd", "adam", "adamw"),
    "batch_size": (8, 16),
    "learning_rate": (1e-2, 1e-3),
    "seeds": (0, 1, 2),
}
STAGES = {**AXES, "procedure": "stages", "start": {"batch_size": 8, "learning_rate": 1e-2}}
BEST = {"optimizer": "adam", "batch_size": 16, "learning_rate": 1e-3}
ONE_TRIAL = {**AXES, "optimizer": ("adam",), "batch_size": (16,), "learning_rate": (1e-3,)}


def accuracy(config):
    """Separable, its maximum at BEST."""
    return (
        0.5
        + {"sgd": 0, "adam": 0.2, "adamw": 0.1}[config.optimizer.name]
        + {8: 0, 16: 0.1}[config.batch_size]
        + {1e-2: 0, 1e-3: 0.05}[config.optimizer.learning_rate]
        + config.seed / 100
    )


class Training:
    """Stands in for train; records the calls, and raises errors[n] in the n-th."""

    def __init__(self):
        self.runs = []  # (directory, score_test)
        self.errors = {}

    @property
    def directories(self):
        return [directory for directory, _ in self.runs]

    def __call__(self, config, directory, *, score_test, prepare, stop=None):
        with lock_run(directory):
            prepare(config)
            number = len(self.runs)
            self.runs.append((directory, score_test))
            if number in self.errors:
                raise self.errors[number]
            scores = {"loss": 0.5, "accuracy": accuracy(config), "examples": 12}
            result = {"model": "lstm", "best_epoch": 1, "val": scores, "train_seconds": 1.0}
            result |= {"test": scores} if score_test else {}
            write_json(directory / "result.json", result)
            return result


def table(directory):
    return (directory / "table.csv").read_text()
