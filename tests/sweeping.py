"""Shared by tests of sweeps: axes with a known best setting, a training that does nothing."""

from sentiment_jax.modes.train import RUN
from sentiment_jax.storage.files import checksums, write_json
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory, lock_run

AXES = {"procedure": "grid", "optimizer": ("sgd", "adam", "adamw"), "batch_size": (8, 16)}
AXES |= {"learning_rate": (1e-2, 1e-3), "seeds": (0, 1, 2)}
STAGES = {**AXES, "procedure": "stages", "start": {"batch_size": 8, "learning_rate": 1e-2}}
ONE_TRIAL = {**AXES, "optimizer": ("adam",), "batch_size": (16,), "learning_rate": (1e-3,)}


def accuracy(config):
    """Separable, its maximum at ONE_TRIAL's setting."""
    return (
        0.5
        + {"sgd": 0, "adam": 0.2, "adamw": 0.1}[config.optimizer.name]
        + {8: 0, 16: 0.1}[config.batch_size]
        + {1e-2: 0, 1e-3: 0.05}[config.optimizer.learning_rate]
        + config.seed / 100
    )


class Training:
    """Stands in for train, stops after one epoch; records calls, raises errors[n] in the n-th."""

    def __init__(self):
        self.runs = []  # (directory, whether it is tested)
        self.experiments = []
        self.errors = {}

    @property
    def directories(self):
        return [directory for directory, _ in self.runs]

    def __call__(self, config, directory, *, stages, prepare, stop=None):
        with lock_run(directory):
            experiment = prepare(config)
            number = len(self.runs)
            self.runs.append((directory, stages == RUN))
            self.experiments.append(experiment)
            if number in self.errors:
                raise self.errors[number]
            files = RunDirectory(directory)
            files.write_config(experiment.config)
            write_json(files.env, {"data": experiment.statistics})
            scores = {"loss": 0.5, "accuracy": accuracy(config), "examples": 12}
            line = {"step": 3, "epoch": 1, **scores}
            MetricsLog(files.metrics, [{**line, "split": split} for split in ("train", "val")])
            result = {"model": "lstm", "best_epoch": 1, "epochs": 1, "val": scores}
            result["metrics"] = {"val": {"mcc": 0.5}}
            result |= {"train_seconds": 1.0, "data_hash": experiment.statistics["data_hash"]}
            if stages == RUN:
                linear = {"accuracy": config.data.split_seed / 10}
                result |= {"test": scores, "linear_baseline": {"test": linear}}
            write_json(files.result, result | checksums(files.metrics))
            return result


def table(directory):
    return (directory / "table.csv").read_text()
