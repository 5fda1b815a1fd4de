"""Shared by tests of sweeps: axes with a known best setting, a training that does nothing."""

from written_runs import write_run

AXES = {"procedure": "grid", "optimizer": ("sgd", "adam", "adamw"), "batch_size": (8, 16)}
AXES |= {"learning_rate": (1e-2, 1e-3), "seeds": (0, 1, 2)}
ROUNDS = {**AXES, "procedure": "rounds", "start": {"batch_size": 8, "learning_rate": 1e-2}}
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
    """Stands in for `complete`: one epoch; records calls, raises errors[n] in the n-th."""

    def __init__(self):
        self.runs = []  # (directory, whether it is tested)
        self.experiments = []
        self.errors = {}

    @property
    def directories(self):
        return [directory for directory, _ in self.runs]

    def __call__(self, run, experiment, *, tested):
        directory = run.directory.path
        config = experiment.config
        number = len(self.runs)
        self.runs.append((directory, tested))
        self.experiments.append(experiment)
        if number in self.errors:
            raise self.errors[number]
        made = {"statistics": experiment.statistics}
        if tested:
            made["test"] = {"loss": 0.5, "accuracy": accuracy(config), "examples": 12}
            made["linear_baseline"] = {"test": {"accuracy": config.data.split_seed / 10}}
        return write_run(directory, config, accuracy(config), **made)


def table(directory):
    return (directory / "table.csv").read_text()
