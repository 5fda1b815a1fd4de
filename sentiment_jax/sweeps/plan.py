"""A sweep and its trials: which there are, and the outcome of each, read from its directory.

There are two procedures. `grid` tries every combination. `rounds` is the study's: it chooses the
optimizer, then the batch size, then the learning rate, and starts each round from the best trial so
far. Either way, the winner is then retrained with every seed. Nothing here trains.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.config import schema, stored
from sentiment_jax.config.schema import Config
from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError, did_you_mean
from sentiment_jax.storage.files import check_checksum, read_json
from sentiment_jax.storage.format import read_numbered, write_numbered
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import SWEEP_FILE, RunDirectory
from sentiment_jax.storage.selection import Ranking

FINAL = "final"  # the round that retrains the winner, and the folder of its trials
FIELDS = {  # the axes of every sweep; further axes are named like their setting
    "optimizer": "optimizer.name",
    "batch_size": "batch_size",
    "learning_rate": "optimizer.learning_rate",
}
Setting = dict[str, Any]  # axis -> value


def format_rate(rate: float) -> str:
    """Return a learning rate in scientific notation: 3e-5, 1e-2, 1e0."""
    mantissa, _, exponent = f"{rate:.5e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def format_value(axis: str, value: Any) -> str:
    """Return a value on an axis as text."""
    if axis == "learning_rate":
        return format_rate(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(setting: Mapping[str, Any]) -> str:
    """Return values of axes in words: adam, batch 16, learning rate 3e-5."""
    words = []
    for axis, value in setting.items():
        name = {"optimizer": "", "batch_size": "batch"}.get(axis, axis.replace("_", " "))
        words.append(f"{name} {format_value(axis, value)}".strip())
    return ", ".join(words)


@dataclasses.dataclass
class Trial:
    """A run of a sweep, or one on its own, with its outcome at the last `refresh`."""

    round: str  # of the sweep; "run" outside of one
    directory: Path
    config: Config
    axes: Sequence[str] = tuple(FIELDS)  # of its sweep
    status: str = "open"  # or finished, failed
    content: dict[str, Any] = dataclasses.field(default_factory=dict)  # result or failure

    def refresh(self) -> "Trial":
        """Read the outcome from the directory; return the trial itself."""
        self.status, self.content = self.files.outcome()
        return self

    @property
    def files(self) -> RunDirectory:
        """The files of the run directory."""
        return RunDirectory(self.directory)

    @property
    def ranking(self) -> Ranking:
        """The order of validations: by the config, and by the data once they are read."""
        known = self.files.config.exists()
        return Ranking.of(self.files.read_config() if known else self.config)

    @property
    def setting(self) -> Setting:
        """The trial's value on each axis."""
        flat = flatten(self.config)
        return {axis: flat[FIELDS.get(axis, axis)] for axis in self.axes}

    @property
    def row(self) -> dict[str, Any]:
        """The trial's entries in tables; None stands for an unknown one."""
        results = ("step", "best_epoch", "epochs", "train_seconds", "reason")
        row = {name: self.content.get(name) for name in results}
        for split in ("val", "test"):
            scores = self.content.get(split, {})
            row |= {f"{split}_{metric}": scores.get(metric) for metric in ("loss", "accuracy")}
        row |= {"round": self.round, "status": self.status, "run": self.directory.name}
        row |= {"seed": self.config.seed, "split_seed": self.config.data.split_seed}
        return row | self.setting  # an axis "epochs" takes the place of the epochs trained

    @functools.cached_property
    def env(self) -> dict[str, Any]:
        """The content of env.json; a trial that failed early, or is open, may have none."""
        needed = self.status == "finished" or self.content.get("metrics_sha256")
        return read_json(self.files.env) if needed or self.files.env.exists() else {}

    @functools.cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none if the trial is open or failed before the first."""
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
    seeds: tuple[int, ...]  # the winner is retrained and tested once with each
    start: Setting  # the first round varies its optimizer
    optimizer_settings: dict[str, dict[str, Any]]  # optimizer -> settings that come with it
    config: Config  # resolved; has every setting that is no axis
    data_hash: str = ""
    command: str = ""  # the command line that began the sweep
    split_seeds: tuple[int, ...] = ()  # the winner's splits, with every seed; empty: the config's

    @property
    def columns(self) -> list[str]:
        """The entries of a `Trial.row` in which trials differ."""
        return [*self.axes, *(["split_seed"] if self.split_seeds else []), "seed"]

    def write(self) -> None:
        """Write sweep.json."""
        fields = {**vars(self), "config": stored.config_to_json(self.config)}
        write_numbered(fields.pop("directory") / SWEEP_FILE, fields)

    def trial(self, round: str, setting: Setting, seeds: dict[str, int]) -> Trial:
        """Return one trial with its resolved config and present outcome."""
        extra = self.optimizer_settings.get(setting["optimizer"], {})
        changes = {f"optimizer.{name}": value for name, value in extra.items()}
        changes |= {FIELDS.get(axis, axis): setting[axis] for axis in self.axes}
        config = stored.replace_settings(self.config, changes | seeds)
        parent = self.directory / FINAL if round == FINAL else self.directory
        return Trial(round, parent / stored.run_name(config), config, tuple(self.axes)).refresh()

    def _combinations(self) -> list[Setting]:
        products = itertools.product(*self.axes.values())
        return [dict(zip(self.axes, values, strict=True)) for values in products]

    def samples(self) -> list[Config]:
        """Return the config of every combination, and the start's with every seed."""
        settings = [(setting, self.seeds[0]) for setting in self._combinations()]
        settings += [(self.start, seed) for seed in self.seeds]
        return [self.trial("", setting, {"seed": seed}).config for setting, seed in settings]

    def _changes(self) -> dict[str, list[Setting]]:
        """Return round -> what its trials change in the setting that it starts from."""
        if self.procedure == "grid":
            return {"grid": self._combinations()}
        return {axis: [{axis: value} for value in values] for axis, values in self.axes.items()}

    def count_trials(self) -> int:
        """Return the number of trials; a round does not repeat the winner of the one before."""
        new = sum(len(changes) - 1 for changes in self._changes().values())
        return 1 + new + len(self.seeds) * max(len(self.split_seeds), 1)

    def best_run(self) -> Path:
        """Return the winner's best seed by validation; InputError: there is no winner yet."""
        *_, trials = self.rounds()
        best = best_finished(trials)
        unfinished = any(trial.status == "open" for trial in trials)
        if best is None or best.round != FINAL or unfinished:
            raise InputError(
                f"{self.directory} is a sweep without a winner yet: let its command end"
            )
        return best.directory

    def rounds(self) -> Iterator[list[Trial]]:
        """Yield the trials of a round; ask for the next round once they have ended.

        The iterator ends early if a round has open trials or none that finished.
        """
        setting = self.start
        for round, changes in self._changes().items():
            trials = [self.trial(round, setting | change, {}) for change in changes]
            yield trials
            best = best_finished([trial.refresh() for trial in trials])
            if best is None or any(trial.status == "open" for trial in trials):
                return
            setting = best.setting
        splits = self.split_seeds or (self.config.data.split_seed,)
        pairs = itertools.product(splits, self.seeds)
        seeds = [{"data.split_seed": split, "seed": seed} for split, seed in pairs]
        yield [self.trial(FINAL, setting, pair) for pair in seeds]

    def check_same(self, new: "Sweep") -> None:
        """Raise InputError if the new sweep differs from this one in what affects results."""
        harmless = {"directory", "data_hash", "command", *(f"config.{f}" for f in schema.HARMLESS)}
        if changes := stored.config_difference(self, new, harmless):
            text = f"{self.directory} holds another sweep ({'; '.join(changes)})"
            raise InputError(f"{text}: choose another --workdir")


def best_finished(trials: Sequence[Trial]) -> Trial | None:
    """Return the best finished trial by validation, the first of equal ones; None if none is."""
    finished = [trial for trial in trials if trial.status == "finished"]
    return max(finished, key=lambda t: t.ranking.key(t.content["val"]), default=None)


def plan_sweep(
    directory: Path, config: Config, axes: Mapping[str, Any], overridden: Collection[str] = ()
) -> Sweep:
    """Turn `axes`, a config's get_sweep() updated with the command line's values, into a sweep.

    They hold procedure, the three axes, seeds; optionally split_seeds, other settings as further
    axes, start, and optimizer_settings, of which the command line may have `overridden` some.

    InputError: unknown or missing names, values of the wrong kind, an overridden axis.
    """
    if not config.data.validates:
        raise InputError("data.validation_fraction=0 leaves a sweep no texts to choose by")
    short = {field: axis for axis, field in FIELDS.items()}
    axes = {short.get(name, name): values for name, values in axes.items()}
    if missing := {"procedure", *FIELDS, "seeds"} - axes.keys():
        raise InputError(f"get_sweep() has no {', '.join(sorted(missing))}")
    procedure = axes.pop("procedure")
    if procedure not in schema.PROCEDURES:
        raise InputError(f"{procedure=} is unknown, choose {', '.join(schema.PROCEDURES)}")
    seeds = _values("seeds", config.seed, axes.pop("seeds"))
    drawn = axes.pop("split_seeds", ())
    split_seeds = _values("split_seeds", config.data.split_seed, drawn) if drawn else ()
    wanted = axes.pop("start", {})
    settings = {
        name: {key: v for key, v in fields.items() if f"optimizer.{key}" not in overridden}
        for name, fields in axes.pop("optimizer_settings", {}).items()
    }
    values = {
        axis: _axis_values(axis, axes[axis], config, overridden)
        for axis in dict.fromkeys([*FIELDS, *axes])
    }
    flat = flatten(config)
    start = {}
    for axis, tried in values.items():
        first = wanted.get(axis, flat[FIELDS.get(axis, axis)])
        start[axis] = first if first in tried else tried[0]
    sweep = Sweep(
        directory, procedure, values, seeds, start, settings, config, split_seeds=split_seeds
    )
    for sample in sweep.samples():
        validate(sample)
    return sweep


def _axis_values(
    axis: str, raw: Sequence[Any], config: Config, overridden: Collection[str]
) -> tuple:
    """Return the values of an axis; InputError if a sweep of this config can't have it."""
    flat = flatten(config)
    known = [*FIELDS, *(field for field in schema.sweep_fields() if field in flat)]
    if axis not in known:
        near = did_you_mean(axis, ["seeds", "split_seeds", *known])
        raise InputError(f"{axis} is no axis for a sweep of {config.model.name}{near}")
    if axis in schema.OF_VOCABULARY and config.model.pretrained:
        raise InputError(f"{axis} is no axis here: model.pretrained brings its vocabulary")
    field = FIELDS.get(axis, axis)
    if field in overridden:
        raise InputError(f"--config.{field} is an axis of the sweep: use --sweep_{axis}")
    values = _values(axis, flat[field], raw)
    if axis == "class_weights" and config.select_by == "accuracy" and len(values) > 1:
        raise InputError(f"{axis} is no axis with select_by=accuracy: set select_by=macro_f1")
    return values


def _values(axis: str, like: Any, raw: Sequence[Any]) -> tuple:
    """Return values of the type of the config's own, `like`; None is a dropout rate to inherit."""
    kind = float if like is None else type(like)
    with contextlib.suppress(ValueError, KeyError):
        if kind is bool:
            raw = [{"true": True, "false": False}[str(value).lower()] for value in raw]
        if values := tuple(dict.fromkeys(map(kind, raw))):
            return values
    listed = ",".join(map(str, raw))
    raise InputError(f"--sweep_{axis}={listed}: one or more {kind.__name__} values expected")


def read_sweep(directory: Path) -> Sweep:
    """Read sweep.json; InputError if it is missing, damaged or has another format."""
    plan = read_numbered(directory / SWEEP_FILE)
    plan["config"] = stored.make_frozen(plan["config"])
    plan |= {name: tuple(plan[name]) for name in ("seeds", "split_seeds")}
    plan["axes"] = flatten(plan["axes"])  # lists become the tuples they were
    return Sweep(directory, **plan)
