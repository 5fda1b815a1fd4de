"""A sweep and its trials: what it consists of and how far it is, from its directory alone.

Two procedures: `grid`, every combination; `stages`, the study's: best optimizer, then batch size,
then learning rate, each stage from the winner so far. The winner is then trained with every seed.
Nothing here trains.
"""

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config import (
    HARMLESS,
    config_difference,
    config_from_json,
    flatten,
    run_name,
    validate,
)
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, read_json
from sentiment_jax.storage.metrics_log import read_metrics, validation_rank
from sentiment_jax.storage.run_directory import RunDirectory

PLAN_FILE = "sweep.json"
PROCEDURES = ("grid", "stages")
FINAL = "final"  # the stage that retrains the winner, and the folder of its trials
FIELDS = {
    "optimizer": "optimizer.name",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
}
TYPES = {"optimizer": str, "batch_size": int, "learning_rate": float, "seeds": int}
Setting = dict[str, Any]  # optimizer, batch_size, learning_rate


@dataclasses.dataclass
class Trial:
    """One run of a sweep, or one that was made on its own.

    Attributes:
      stage: of the sweep; "run" outside of one.
      directory: the run directory.
      config: resolved.
      status: open | finished | failed, as of the last `refresh`.
      content: of result.json or failed.json; empty while the trial is open.
    """

    stage: str
    directory: Path
    config: ConfigDict
    status: str = "open"
    content: dict[str, Any] = dataclasses.field(default_factory=dict)

    def refresh(self) -> "Trial":
        """Read the outcome from the directory; return the trial itself."""
        self.status, self.content = self.files.outcome()
        return self

    @property
    def files(self) -> RunDirectory:
        """The files of the run directory."""
        return RunDirectory(self.directory)

    @property
    def setting(self) -> Setting:
        """The trial's value on each axis."""
        flat = flatten(self.config)
        return {axis: flat[field] for axis, field in FIELDS.items()}

    @property
    def label(self) -> str:
        """The setting and seed in words."""
        words = "{optimizer}, batch {batch_size}, learning rate {learning_rate:g}"
        return f"{words.format(**self.setting)}, seed {self.config.seed}"

    @property
    def scores(self) -> dict[str, float | None]:
        """Loss and accuracy on "val" and "test", as far as they are known."""
        return {
            f"{split}_{metric}": self.content.get(split, {}).get(metric)
            for split in ("val", "test")
            for metric in ("loss", "accuracy")
        }

    @functools.cached_property
    def env(self) -> dict[str, Any]:
        """The content of env.json; a trial that failed early, or is open, may have none."""
        needed = self.status == "finished" or self.content.get("metrics_sha256")
        return read_json(self.files.env) if needed or self.files.env.exists() else {}

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none while the trial is open: no checksum covers them yet."""
        if self.status == "open":
            return []
        remedy = "put that file back, or make the run again"
        check_checksum(self.files.metrics, self.content, remedy)
        return read_metrics(self.files.metrics)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep as sweep.json describes it.

    Attributes:
      directory: holds sweep.json, table.csv and a folder for each trial.
      procedure: grid | stages.
      axes: optimizer, batch_size, learning_rate -> the values to try.
      seeds: the winner is trained and tested once with each.
      start: the setting that the first stage varies.
      optimizer_settings: optimizer -> fields of config.optimizer that come with it.
      config: resolved; what no axis changes.
      data_hash: of the reviews.
      command: the command line that began the sweep.
      config_file: its --config, with the variant; empty in a sweep.json written before it was kept.
      overrides: config field -> value, as that command line set them.
    """

    directory: Path
    procedure: str
    axes: dict[str, tuple]
    seeds: tuple[int, ...]
    start: Setting
    optimizer_settings: dict[str, dict[str, Any]]
    config: ConfigDict
    data_hash: str = ""
    command: str = ""
    config_file: str = ""
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of sweep.json."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["directory"]
        return {**fields, "config": self.config.to_dict()}

    def trial_config(self, setting: Setting, seed: int) -> ConfigDict:
        """Return the resolved config of one trial."""
        extra = self.optimizer_settings.get(setting["optimizer"], {})
        config = ConfigDict(self.config.to_dict())
        config.update_from_flattened_dict(
            {
                **{f"optimizer.{name}": value for name, value in extra.items()},
                **{field: setting[axis] for axis, field in FIELDS.items()},
                "seed": seed,
            }
        )
        return config

    def trial(self, stage: str, setting: Setting, seed: int) -> Trial:
        """Return one trial with its present outcome."""
        config = self.trial_config(setting, seed)
        parent = self.directory / FINAL if stage == FINAL else self.directory
        return Trial(stage, parent / run_name(config), config).refresh()

    def trial_command(self, trial: Trial) -> str:
        """Return the command that repeats one trial; the sweep's own without a config_file."""
        if not self.config_file:
            return self.command
        flat = flatten(trial.config)
        changed = [change.split(":")[0] for change in config_difference(self.config, trial.config)]
        fields = self.overrides | {field: flat[field] for field in (*changed, "seed")}
        command = ["python", "-m", "sentiment_jax.main", f"--config={self.config_file}"]
        command += [f"--config.{field}={value}" for field, value in fields.items()]
        return shlex.join([*command, f"--workdir=runs/{trial.directory.name}"])

    def count_trials(self) -> int:
        """Return the number of trials; a stage does not repeat the winner of the one before."""
        sizes = [len(values) for values in self.axes.values()]
        if self.procedure == "grid":
            return sizes[0] * sizes[1] * sizes[2] + len(self.seeds)
        return sum(sizes) - 2 + len(self.seeds)

    def stages(self) -> Iterator[list[Trial]]:
        """Yield the trials of one stage after the other.

        What comes next depends on how the last ones ended: ask for the next stage once they have.
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
            best = winner(trials)
            if best is None:
                return
            setting = best.setting
        yield [self.trial(FINAL, setting, seed) for seed in self.seeds]

    def check_same(self, new: "Sweep") -> None:
        """Compare this sweep, found in its directory, with the one asked for.

        Raises:
          InputError: they differ in more than what changes no number of a trial.
        """
        names = ("procedure", "axes", "seeds", "start", "optimizer_settings", "config")
        old, asked = ({name: getattr(plan, name) for name in names} for plan in (self, new))
        harmless = {f"config.{field}" for field in HARMLESS}
        changes = config_difference(old, asked)
        changes = [change for change in changes if change.split(":")[0] not in harmless]
        if changes:
            raise InputError(
                f"{self.directory} holds another sweep ({'; '.join(changes)}); choose another "
                "--workdir"
            )


def winner(trials: Sequence[Trial]) -> Trial | None:
    """Return the trial with the best validation (accuracy, ties by loss, then the first).

    None while one is open, or if none finished.
    """
    for trial in trials:
        trial.refresh()
    if any(trial.status == "open" for trial in trials):
        return None
    return best_finished(trials)


def best_finished(trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial by validation, the first of equals; None if none finished."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda t: validation_rank(t.content["val"]), default=None)


def plan_sweep(
    directory: Path,
    config: ConfigDict,
    axes: Mapping[str, Any],
    config_file: str = "",
    overrides: Mapping[str, Any] | None = None,
) -> Sweep:
    """Turn a config's get_sweep(), updated with the command line's values, into a sweep.

    Args:
      directory: the sweep's.
      config: resolved.
      axes: procedure, the three axes, seeds; optionally start and optimizer_settings.
      config_file: the command line's --config.
      overrides: config fields named on the command line. One that the sweep would set is refused;
        of optimizer_settings they win.

    Raises:
      InputError: unknown or missing names, values of the wrong kind, empty axes.
    """
    overrides = dict(overrides or {})
    known = {"procedure", *TYPES, "start", "optimizer_settings"}
    if axes.keys() - known or {"procedure", *TYPES} - axes.keys():
        raise InputError(
            f"get_sweep() has {', '.join(sorted(axes))}; expected are {', '.join(sorted(known))}"
        )
    if axes["procedure"] not in PROCEDURES:
        raise InputError(
            f"procedure={axes['procedure']!r} is unknown, choose {', '.join(PROCEDURES)}"
        )
    for axis, field in FIELDS.items():
        if field in overrides:
            raise InputError(f"--config.{field} is an axis of the sweep: use --sweep_{axis}")
    values = {axis: _values(axis, axes[axis]) for axis in TYPES}
    seeds = values.pop("seeds")
    if min(seeds) < 0:
        raise InputError(f"--sweep_seeds: {min(seeds)} is negative")
    start = {}
    for axis, field in FIELDS.items():
        own = axes.get("start", {}).get(axis, flatten(config)[field])
        start[axis] = own if own in values[axis] else values[axis][0]
    settings = {
        name: {key: v for key, v in fields.items() if f"optimizer.{key}" not in overrides}
        for name, fields in axes.get("optimizer_settings", {}).items()
    }
    sweep = Sweep(
        *(directory, axes["procedure"], values, seeds, start, settings, config),
        config_file=config_file,
        overrides=overrides,
    )
    for axis in FIELDS:
        for value in values[axis]:
            validate(sweep.trial_config({**start, axis: value}, seeds[0]))
    return sweep


def _values(axis: str, raw: Sequence[Any]) -> tuple:
    kind: Any = TYPES[axis]
    try:
        values = tuple(dict.fromkeys(kind(value) for value in raw))
    except ValueError as error:
        listed = ",".join(map(str, raw))
        raise InputError(f"--sweep_{axis}={listed}: {kind.__name__} values expected") from error
    if not values:
        raise InputError(f"--sweep_{axis} is empty: name at least one value")
    return values


def read_sweep(directory: Path) -> Sweep:
    """Read sweep.json back.

    Raises:
      InputError: missing, half-written or not a sweep's.
    """
    try:
        stored = read_json(directory / PLAN_FILE)
        stored["config"] = config_from_json(stored["config"])
        stored["axes"] = flatten(stored["axes"])  # lists become the tuples they were
        stored["overrides"] = flatten(stored.get("overrides", {}))
        return Sweep(directory, **{**stored, "seeds": tuple(stored["seeds"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / PLAN_FILE} is not a sweep's plan ({error!r})") from error
