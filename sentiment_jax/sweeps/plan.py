"""What a sweep consists of and where it stands, from its directory alone; nothing here trains.

Two procedures: `grid`, every combination; `stages`, the study's: best optimizer, then batch size,
then learning rate, each stage from the winner so far. The winner is then trained with every seed.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config import (
    HARMLESS,
    config_difference,
    config_from_json,
    config_to_json,
    flatten,
    run_name,
    validate,
)
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import read_json
from sentiment_jax.storage.metrics_log import validation_rank
from sentiment_jax.storage.run_directory import RunDirectory

PLAN_FILE = "sweep.json"
PROCEDURES = ("grid", "stages")
FINAL = "final"  # the stage that retrains the winner, and the folder of its runs
FIELDS = {
    "optimizer": "optimizer.name",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
}
TYPES = {"optimizer": str, "batch_size": int, "learning_rate": float, "seeds": int}
Setting = dict[str, Any]  # optimizer, batch_size, learning_rate


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep as sweep.json holds it.

    Attributes:
      procedure: grid | stages.
      axes: optimizer, batch_size, learning_rate -> the values to try.
      seeds: the winner is trained and tested once with each.
      start: the setting that the first stage varies.
      optimizer_settings: optimizer -> fields of config.optimizer that come with it.
      config: resolved; what no axis changes.
      data_hash: of the reviews.
      command: the command line that began the sweep.
    """

    procedure: str
    axes: dict[str, tuple]
    seeds: tuple[int, ...]
    start: Setting
    optimizer_settings: dict[str, dict[str, Any]]
    config: ConfigDict
    data_hash: str = ""
    command: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "config": config_to_json(self.config)}

    def run_config(self, setting: Setting, seed: int) -> ConfigDict:
        """The resolved config of one run."""
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

    def count_runs(self) -> int:
        """All runs of the sweep; a stage does not repeat the winner of the one before."""
        sizes = [len(values) for values in self.axes.values()]
        if self.procedure == "grid":
            return sizes[0] * sizes[1] * sizes[2] + len(self.seeds)
        return sum(sizes) - 2 + len(self.seeds)


def make_plan(
    config: ConfigDict, sweep: Mapping[str, Any], overridden: Collection[str] = ()
) -> Plan:
    """Turns a config's get_sweep(), with the command line's values in it, into a plan.

    Args:
      config: resolved.
      sweep: procedure, the three axes, seeds; optionally start and optimizer_settings.
      overridden: config fields named on the command line. One that the sweep would set is refused;
        of optimizer_settings they win.

    Raises:
      InputError: unknown or missing names, values of the wrong kind, empty axes.
    """
    known = {"procedure", *TYPES, "start", "optimizer_settings"}
    if sweep.keys() - known or {"procedure", *TYPES} - sweep.keys():
        raise InputError(
            f"get_sweep() has {', '.join(sorted(sweep))}; expected are {', '.join(sorted(known))}"
        )
    if sweep["procedure"] not in PROCEDURES:
        raise InputError(
            f"procedure={sweep['procedure']!r} is unknown, choose {', '.join(PROCEDURES)}"
        )
    for axis, field in FIELDS.items():
        if field in overridden:
            raise InputError(f"--config.{field} is an axis of the sweep: use --sweep_{axis}")
    values = {axis: _values(axis, sweep[axis]) for axis in TYPES}
    seeds = values.pop("seeds")
    if min(seeds) < 0:
        raise InputError(f"--sweep_seeds: {min(seeds)} is negative")
    start = {}
    for axis, field in FIELDS.items():
        own = sweep.get("start", {}).get(axis, flatten(config)[field])
        start[axis] = own if own in values[axis] else values[axis][0]
    settings = {
        name: {key: v for key, v in fields.items() if f"optimizer.{key}" not in overridden}
        for name, fields in sweep.get("optimizer_settings", {}).items()
    }
    plan = Plan(sweep["procedure"], values, seeds, start, settings, config)
    for axis in FIELDS:
        for value in values[axis]:
            validate(plan.run_config({**start, axis: value}, seeds[0]))
    return plan


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


def read_plan(directory: Path) -> Plan:
    """Reads sweep.json."""
    try:
        stored = read_json(directory / PLAN_FILE)
        stored["config"] = config_from_json(stored["config"])
        stored["axes"] = {axis: tuple(values) for axis, values in stored["axes"].items()}
        return Plan(**{**stored, "seeds": tuple(stored["seeds"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory / PLAN_FILE} is not a sweep's plan ({error!r})") from error


def check_same_plan(directory: Path, old: Plan, new: Plan) -> None:
    """Compares the plan of a directory with the one asked for.

    Raises:
      InputError: they differ in more than what changes no number of a run.
    """
    names = ("procedure", "axes", "seeds", "start", "optimizer_settings", "config")
    changes = config_difference(
        {name: getattr(old, name) for name in names}, {name: getattr(new, name) for name in names}
    )
    harmless = {f"config.{field}" for field in HARMLESS}
    changes = [change for change in changes if change.split(":")[0] not in harmless]
    if changes:
        raise InputError(
            f"{directory} holds another sweep ({'; '.join(changes)}); choose another --workdir"
        )


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep: its stage, directory and resolved config."""

    stage: str
    directory: Path
    config: ConfigDict

    @property
    def setting(self) -> Setting:
        """Its place on the axes."""
        flat = flatten(self.config)
        return {axis: flat[field] for axis, field in FIELDS.items()}

    @property
    def label(self) -> str:
        """The setting and seed in words."""
        words = "{optimizer}, batch {batch_size}, learning rate {learning_rate:g}"
        return f"{words.format(**self.setting)}, seed {self.config.seed}"

    def outcome(self) -> Any:
        """How it stands now."""
        import types

        status, content = RunDirectory(self.directory).outcome()
        return types.SimpleNamespace(status=status, content=content)


def _make_run(plan: Plan, root: Path, stage: str, setting: Setting, seed: int) -> Trial:
    config = plan.run_config(setting, seed)
    parent = root / FINAL if stage == FINAL else root
    return Trial(stage, parent / run_name(config), config)


def iterate_stages(plan: Plan, directory: Path) -> Iterator[list[Trial]]:
    """Yields the runs of one stage after the other.

    What comes next depends on how the last ones ended: ask for the next stage once they have. The
    iterator ends early where a stage is open or nothing in it finished.
    """
    seed = plan.config.seed
    if plan.procedure == "grid":
        settings = [
            dict(zip(plan.axes, values, strict=True))
            for values in itertools.product(*plan.axes.values())
        ]
        runs = [_make_run(plan, directory, "grid", setting, seed) for setting in settings]
        yield runs
        best = winner(runs)
    else:
        setting = plan.start
        for axis, values in plan.axes.items():
            runs = [
                _make_run(plan, directory, axis, {**setting, axis: value}, seed) for value in values
            ]
            yield runs
            best = winner(runs)
            if best is None:
                return
            setting = best.setting
    if best is not None:
        yield [_make_run(plan, directory, FINAL, best.setting, seed) for seed in plan.seeds]


def winner(runs: Sequence[Trial]) -> Trial | None:
    """The run with the best validation (accuracy, ties by loss, then the first).

    None while one is open, or where none finished.
    """
    outcomes = [run.outcome() for run in runs]
    if any(outcome.status == "open" for outcome in outcomes):
        return None
    scores = {
        i: validation_rank(outcome.content["val"])
        for i, outcome in enumerate(outcomes)
        if outcome.status == "finished"
    }
    return runs[max(scores, key=lambda i: scores[i])] if scores else None
