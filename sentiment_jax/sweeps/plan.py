"""A sweep and its trials: what it consists of and how far it is, from its directory alone.

Two procedures: `grid`, every combination; `stages`, the study's: best optimizer, then batch size,
then learning rate, each stage from the winner so far. The winner is then trained with every seed.
Nothing here trains.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config.schema import MODELS, schema
from sentiment_jax.config.stored import (
    HARMLESS,
    config_difference,
    config_from_json,
    config_to_json,
    flatten,
    run_name,
)
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError, did_you_mean
from sentiment_jax.storage.files import check_checksum, read_json, write_json
from sentiment_jax.storage.format import add_format, upgrade
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.storage.selection import validation_rank

PLAN_FILE = "sweep.json"
PROCEDURES = ("grid", "stages")
FINAL = "final"  # the stage that retrains the winner, and the folder of its trials
FIELDS = {  # the axes of every sweep; further ones are called as their field
    "optimizer": "optimizer.name",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
}
FOLLOWERS = {  # what a run alone sets like another setting, and a trial takes from its sweep
    "model.hidden_dropout": "model.classifier_dropout",
    "model.hidden_size": "model.embedding_size",
}
Values = dict[str, Any]  # axis -> value


def format_value(value: Any) -> str:
    """Return an axis's value in words."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclasses.dataclass
class Trial:
    """One run of a sweep, or one that was made on its own; its outcome as of the last `refresh`."""

    stage: str  # of the sweep; "run" outside of one
    directory: Path
    config: ConfigDict
    status: str = "open"  # or finished, failed
    content: dict[str, Any] = dataclasses.field(default_factory=dict)  # of result or failure
    axes: Sequence[str] = tuple(FIELDS)  # of its sweep

    def refresh(self) -> "Trial":
        """Read the outcome from the directory; return the trial itself."""
        self.status, self.content = self.files.outcome()
        return self

    @property
    def files(self) -> RunDirectory:
        """The files of the run directory."""
        return RunDirectory(self.directory)

    @property
    def setting(self) -> Values:
        """The trial's value on each axis."""
        flat = flatten(self.config)
        return {axis: flat[FIELDS.get(axis, axis)] for axis in self.axes}

    @property
    def label(self) -> str:
        """The setting and seed in words."""
        words = "{optimizer}, batch {batch_size}, learning rate {learning_rate:g}"
        more = [f"{a} {format_value(v)}" for a, v in self.setting.items() if a not in FIELDS]
        return ", ".join([words.format(**self.setting), *more, f"seed {self.config.seed}"])

    @property
    def row(self) -> dict[str, Any]:
        """What tables say of the trial; None stands for what is not known."""
        known = ("step", "best_epoch", "epochs", "train_seconds", "reason")
        return {
            **{"stage": self.stage, **self.setting, "seed": self.config.seed},
            **{"status": self.status, "run": self.directory.name},
            **{name: self.content.get(name) for name in known if name not in self.axes},
            **{
                f"{split}_{metric}": self.content.get(split, {}).get(metric)
                for split in ("val", "test")
                for metric in ("loss", "accuracy")
            },
        }

    @functools.cached_property
    def env(self) -> dict[str, Any]:
        """The content of env.json; a trial that failed early, or is open, may have none."""
        needed = self.status == "finished" or self.content.get("metrics_sha256")
        return read_json(self.files.env) if needed or self.files.env.exists() else {}

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none while the trial is open, or if it failed before any."""
        if "metrics_sha256" not in self.content:
            return []
        remedy = "put that file back, or make the run again"
        check_checksum(self.files.metrics, self.content, remedy)
        return read_metrics(self.files.metrics)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as sweep.json describes it."""

    directory: Path  # holds sweep.json, table.csv and a folder for each trial
    procedure: str
    axes: dict[str, tuple]  # optimizer, batch_size, learning_rate, more -> the values to try
    seeds: tuple[int, ...]  # the winner is trained and tested once with each
    start: Values  # varied by the first stage
    optimizer_settings: dict[str, dict[str, Any]]  # optimizer -> fields that come with it
    config: ConfigDict  # resolved; what no axis changes
    data_hash: str = ""
    command: str = ""  # the command line that began the sweep
    config_file: str = ""  # its --config, with the variant; older sweeps did not keep it
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)  # as it set them

    def write(self) -> None:
        """Write sweep.json, unless another process that began at the same time has done it."""
        fields = {**vars(self), "config": config_to_json(self.config)}
        path = fields.pop("directory") / PLAN_FILE
        mine = path.with_name(f".{path.name}.{os.getpid()}.new")
        write_json(mine, add_format(fields))
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()

    def trial(self, stage: str, setting: Values, seed: int) -> Trial:
        """Return one trial with its resolved config and present outcome."""
        extra = self.optimizer_settings.get(setting["optimizer"], {})
        fields = {f"optimizer.{name}": value for name, value in extra.items()}
        fields |= {FIELDS.get(axis, axis): setting[axis] for axis in self.axes}
        config = ConfigDict(self.config.to_dict())
        config.update_from_flattened_dict({**fields, "seed": seed})
        parent = self.directory / FINAL if stage == FINAL else self.directory
        path = parent / run_name(config)
        return Trial(stage, path, config, axes=tuple(self.axes)).refresh()

    def tried(self) -> Iterator[ConfigDict]:
        """Yield the config of each value of each axis, the others as at the start; of each seed."""
        for axis, values in self.axes.items():
            for value in values:
                yield self.trial("", {**self.start, axis: value}, self.seeds[0]).config
        for seed in self.seeds:
            yield self.trial("", self.start, seed).config

    def trial_command(self, trial: Trial) -> str:
        """Return the command that repeats one trial; the sweep's own without a config_file."""
        if not self.config_file:
            return self.command
        base, flat = flatten(self.config), flatten(trial.config)
        changed = {field: flat[field] for field in sorted(flat) if flat[field] != base.get(field)}
        if trial.config.model.name != "lstm":
            changed |= {FOLLOWERS[f]: flat[FOLLOWERS[f]] for f in changed if f in FOLLOWERS}
        fields = self.overrides | changed | {"seed": trial.config.seed}
        command = ["python", "-m", "sentiment_jax.main", f"--config={self.config_file}"]
        command += [f"--config.{field}={value}" for field, value in fields.items()]
        return shlex.join([*command, f"--workdir=runs/{trial.directory.name}"])

    def count_trials(self) -> int:
        """Return the number of trials; a stage does not repeat the winner of the one before."""
        sizes = [len(values) for values in self.axes.values()]
        stages = sum(sizes) - (len(sizes) - 1)
        return (math.prod(sizes) if self.procedure == "grid" else stages) + len(self.seeds)

    def stages(self) -> Iterator[list[Trial]]:
        """Yield the trials of a stage; ask for the next stage once they have ended.

        The iterator ends early where a stage is open or nothing in it finished.
        """
        choices = {a: [{a: value} for value in values] for a, values in self.axes.items()}
        if self.procedure == "grid":
            combinations = itertools.product(*self.axes.values())
            choices = {"grid": [dict(zip(self.axes, c, strict=True)) for c in combinations]}
        setting, seed = self.start, self.config.seed
        for stage, changes in choices.items():
            trials = [self.trial(stage, {**setting, **change}, seed) for change in changes]
            yield trials
            open_trials = [trial for trial in trials if trial.refresh().status == "open"]
            if open_trials or (best := best_finished(trials)) is None:
                return
            setting = best.setting
        yield [self.trial(FINAL, setting, seed) for seed in self.seeds]

    def check_same(self, new: "Sweep") -> None:
        """Raise InputError if the new sweep differs from this one in what changes a number."""
        compared = ("procedure", "axes", "seeds", "start", "optimizer_settings", "config")
        old, asked = ({name: getattr(plan, name) for name in compared} for plan in (self, new))
        harmless = {f"config.{field}" for field in HARMLESS}
        changes = config_difference(old, asked)
        if changes := [change for change in changes if change.split(":")[0] not in harmless]:
            raise InputError(
                f"{self.directory} holds another sweep ({'; '.join(changes)}); choose another "
                "--workdir"
            )


def best_finished(trials: Sequence[Trial]) -> Trial | None:
    """Return the finished trial that is the best by validation (storage.selection), if any."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda t: validation_rank(t.content["val"]), default=None)


def find_run(directory: Path) -> Path:
    """Return the run that a directory stands for: a sweep's is its winner with the best seed.

    The best by validation, that is. An InputError says that the sweep has no winner yet.
    """
    if not (directory / PLAN_FILE).is_file():
        return directory
    *_, trials = read_sweep(directory).stages()
    best = best_finished(trials)
    if best is None or best.stage != FINAL:
        raise InputError(f"{directory} is a sweep without a winner yet: let its command end")
    return best.directory


def plan_sweep(
    directory: Path,
    config: ConfigDict,
    axes: Mapping[str, Any],
    config_file: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Sweep:
    """Turn `axes`, a config's get_sweep() updated with the command line's values, into a sweep.

    They hold procedure, the three axes, seeds; optionally other settings as further axes, start,
    and optimizer_settings, which the command line's `overrides` (field -> value) win over.

    Raises:
      InputError: unknown or missing names, values of the wrong kind, an overridden axis.
    """
    if not config.data.validation_fraction:
        raise InputError("data.validation_fraction=0 leaves a sweep no reviews to choose by")
    overrides, flat = dict(overrides or {}), flatten(config)
    short = {field: axis for axis, field in FIELDS.items()}
    axes = {short.get(name, name): values for name, values in axes.items()}
    needed = {"procedure", *FIELDS, "seeds"}
    more = [name for name in axes if name not in needed | {"start", "optimizer_settings"}]
    if missing := needed - axes.keys():
        raise InputError(f"get_sweep() has no {', '.join(sorted(missing))}")
    for name in more:
        if name not in sweep_fields() or name not in flat:
            near = did_you_mean(name, ["seeds", *FIELDS, *(f for f in sweep_fields() if f in flat)])
            raise InputError(f"{name} is no axis for a sweep of {config.model.name}{near}")
        if name in OF_VOCABULARY and config.model.pretrained:
            raise InputError(f"{name} is no axis here: model.pretrained brings its vocabulary")
    if axes["procedure"] not in PROCEDURES:
        choices = ", ".join(PROCEDURES)
        raise InputError(f"procedure={axes['procedure']!r} is unknown, choose {choices}")
    values, start = {}, {}
    for axis, field in (FIELDS | {name: name for name in more}).items():
        if field in overrides:
            raise InputError(f"--config.{field} is an axis of the sweep: use --sweep_{axis}")
        values[axis] = _values(axis, flat[field], axes[axis])
        own = axes.get("start", {}).get(axis, flat[field])
        start[axis] = own if own in values[axis] else values[axis][0]
    seeds = _values("seeds", config.seed, axes["seeds"])
    settings = {
        name: {key: v for key, v in fields.items() if f"optimizer.{key}" not in overrides}
        for name, fields in axes.get("optimizer_settings", {}).items()
    }
    fields = directory, axes["procedure"], values, seeds, start, settings, config
    sweep = Sweep(*fields, config_file=config_file, overrides=overrides)
    for tried in sweep.tried():
        validate(tried)
    return sweep


def _values(axis: str, like: Any, raw: Sequence[Any]) -> tuple:
    """Return values of the type of another one; None stands for a rate that a model inherits."""
    kind = float if like is None else type(like)
    read = (
        (lambda value: {"true": True, "false": False}[str(value).lower()]) if kind is bool else kind
    )
    with contextlib.suppress(ValueError, KeyError):
        if values := tuple(dict.fromkeys(map(read, raw))):
            return values
    listed = ",".join(map(str, raw))
    raise InputError(f"--sweep_{axis}={listed}: one or more {kind.__name__} values expected")


def read_sweep(directory: Path) -> Sweep:
    """Read sweep.json back; InputError if it is missing, half-written or not a sweep's."""
    try:
        stored = upgrade(directory / PLAN_FILE, read_json(directory / PLAN_FILE))
        stored["config"] = config_from_json(stored["config"])
        stored["axes"] = flatten(stored["axes"])  # lists become the tuples they were
        stored["overrides"] = flatten(stored.get("overrides", {}))
        return Sweep(directory, **{**stored, "seeds": tuple(stored["seeds"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / PLAN_FILE} is not a sweep's plan ({error!r})") from error


OF_VOCABULARY = tuple(
    f"data.{field}" for field in ("vocabulary_size", "min_frequency", "ngrams", "ngram_frequency")
)


def sweep_fields() -> list[str]:
    """Return the settings that a sweep may vary: they change numbers, but not which reviews."""
    encoding = ("data.max_length", "data.truncation", *OF_VOCABULARY)
    fixed = ("seed", "cpu_devices", "model.name", "model.revision")
    settings = {name: rule for model in MODELS for name, rule in schema(model).items()}
    return [
        name
        for name, rule in settings.items()
        if not (rule.harmless or rule.internal or name in fixed or isinstance(rule.default, tuple))
        and (name in encoding or not name.startswith(("data.", "pretrain.")))
    ]
