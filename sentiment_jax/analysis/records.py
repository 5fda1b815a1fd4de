"""Reads finished, failed and open trials back, from their directories alone."""

import dataclasses
import itertools
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.analysis.html import format_rate
from sentiment_jax.config.schema import DataConfig
from sentiment_jax.config.stored import HARMLESS, flatten
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.plan import FINAL, PLAN_FILE, Sweep, Trial


@dataclasses.dataclass
class Group:
    """Trials that are reported together: a sweep's, or runs that differ in the seed alone."""

    name: str  # readable, unique in a report
    sweep: Sweep | None  # None for plain runs
    stages: dict[str, list[Trial]]  # of the sweep; empty for plain runs
    finals: list[Trial]  # those that were meant to be tested

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: a stage's winner is part of the next."""
        unique: dict[Path, Trial] = {}
        for trial in itertools.chain(*self.stages.values(), self.finals):
            unique.setdefault(trial.directory, trial)
        return list(unique.values())

    @property
    def axes(self) -> Sequence[str]:
        """The names of the axes of the sweep."""
        return tuple(self.sweep.axes) if self.sweep else tuple(plan.FIELDS)

    @property
    def tested(self) -> list[Trial]:
        """The finished trials with a test score."""
        return [trial for trial in self.finals if "test" in trial.content]

    def mean_test(self, metric: str) -> float:
        """Return the mean of a test score over the seeds."""
        return statistics.mean(trial.content["test"][metric] for trial in self.tested)

    @property
    def best(self) -> Trial | None:
        """The best trial by validation of the last stage: the sweep's choice, if it has ended."""
        return plan.best_finished(next(reversed(self.stages.values()), self.finals))

    def along(self, axis: str) -> dict[str, Trial]:
        """Return value of an axis -> trial: its stage, or the grid's line through the best."""
        best, trials = self.best, self.stages.get(axis, [])
        if "grid" in self.stages and best is not None:
            here = {**best.setting, axis: None}
            trials = [t for t in self.stages["grid"] if {**t.setting, axis: None} == here]
        return {in_words({axis: trial.setting[axis]}): trial for trial in trials}


def in_words(setting: Mapping[str, Any]) -> str:
    """Return values on axes in words: adam, batch 16, learning rate 3e-5."""
    words = []
    for axis, value in setting.items():
        name = {"optimizer": "", "batch_size": "batch"}.get(axis, axis.replace("_", " "))
        shown = format_rate(value) if axis == "learning_rate" else plan.format_value(value)
        words.append(f"{name} {shown}".strip())
    return ", ".join(words)


def collect(directories: Sequence[Path]) -> list[Group]:
    """Find, read and check the sweeps and runs in (or right under) some directories.

    Raises:
      InputError: nothing finished, a half-written file, or runs made with different data.
    """
    groups: list[Group] = []
    alike: dict[str, list[Trial]] = {}
    for path in itertools.chain(*map(_find, directories)):
        if (path / PLAN_FILE).exists():
            sweep = plan.read_sweep(path)
            stages = {trials[0].stage: trials for trials in sweep.stages()}
            groups.append(Group(path.resolve().name, sweep, stages, stages.pop(FINAL, [])))
        else:
            trial = Trial("run", path, RunDirectory(path).read_config()).refresh()
            if trial.config.pretrain.objective:
                raise InputError(f"{path} is a pre-training, which judges no review: leave it out")
            flat = sorted(flatten(trial.config).items())
            key = repr([item for item in flat if item[0] not in (*HARMLESS, "seed")])
            alike.setdefault(key, []).append(trial)
    groups += [Group(_common_name(trials), None, {}, trials) for trials in alike.values()]
    taken: set[str] = set()
    for group in groups:  # names become those of files
        numbered = (f"{group.name}-{number}" for number in itertools.count(2))
        group.name = next(n for n in itertools.chain([group.name], numbered) if n not in taken)
        taken.add(group.name)
    trials = [trial for group in groups for trial in group.trials]
    for trial in trials:
        _check(trial)
    finished = [trial for trial in trials if trial.status == "finished"]
    left = sum(trial.status == "open" for trial in trials)
    if not finished:
        raise InputError(
            f"nothing is finished in {', '.join(map(str, directories))}: {len(trials) - left} runs "
            f"failed, {left} are open; let one end first"
        )
    if left:
        terminal.warn(f"{left} of {len(trials)} runs are not done yet")
    for trial in finished:
        if trial.content["data_hash"] != finished[0].content["data_hash"]:
            raise InputError(
                f"runs of different data cannot stand side by side: {_data(finished[0])} and "
                f"{_data(trial)}; report them apart"
            )
    return groups


def _find(directory: Path) -> list[Path]:
    """Return a directory that is a sweep or a run, or those right under it."""
    if not directory.is_dir():
        remedy = "--workdir names sweeps and runs, A,B,..., or one whose name holds a comma"
        raise InputError(f"no directory {directory}: {remedy}")
    if re.search("[\ud800-\udfff]", str(directory.resolve())):
        raise InputError(f"{directory!a}: a name that is not UTF-8 can't be printed; rename it")
    if (directory / FINAL).is_dir() and not (directory / PLAN_FILE).exists():
        raise InputError(
            f"{directory} is a sweep without its {PLAN_FILE}: run the sweep's command "
            "again, which writes it"
        )
    for paths in [directory], sorted(directory.iterdir()):
        ours = [p for p in paths if (p / PLAN_FILE).is_file() or RunDirectory(p).config.is_file()]
        if ours:
            return ours
    raise InputError(f"{directory} holds no sweep.json and no run's config.json")


def _check(trial: Trial) -> None:
    """Read a trial's env.json and metrics.jsonl, and check result.json for what reports need."""
    _ = trial.env
    if trial.status == "finished":
        result: Any = trial.content
        if result.get("val") == {}:
            raise InputError(
                f"{trial.directory} held out no reviews (data.validation_fraction=0): a report "
                "compares scores on those; --mode=evaluate scores it"
            )
        try:
            splits = {"val", *result} & {"val", "test"}
            _ = sum(result[s][n] for s in splits for n in ("loss", "accuracy", "examples"))
            _ = sum(result[n] for n in ("best_epoch", "train_seconds", "epochs", "parameters"))
            _ = result["data_hash"][:12]
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{trial.directory}/result.json is half-written or not ours ({error!r})"
            ) from error
    _ = trial.metrics


def _data(trial: Trial) -> str:
    counts = trial.env.get("data", {}).get("counts", {})
    total = sum(sum(split.values()) for split in counts.values())
    return f"{trial.directory} (hash {trial.content['data_hash'][:12]}, {total:,} reviews)"


def hardware(trial: Trial) -> str:
    """Return the machine, and its accelerators if the trial computed on some."""
    names = [name.partition(": ") for name in trial.env.get("devices", [])]
    kinds = [kind for platform, _, kind in names if platform != "cpu"]
    accelerators = [f"; {kinds.count(kind)} x {kind}" for kind in sorted(set(kinds))]
    return "".join([trial.env.get("machine", "unknown machine"), *accelerators])


def _common_name(trials: Sequence[Trial]) -> str:
    """Return what the names of directories share: lstm of lstm-seed0 and lstm-seed1."""
    first, *others = [trial.directory.resolve().name for trial in trials]
    common = os.path.commonprefix([first, *others]) if others else ""
    return re.sub(r"[-_]*(seed)?[-_]*$", "", common) or first


def read_texts(trial: Trial) -> dict[str, str]:
    """Read the test set that a trial was scored on, id -> text; InputError if it changed."""
    corpus = load_corpus(DataConfig(**trial.config.data.to_dict()))
    if corpus.statistics["data_hash"] != trial.content["data_hash"]:
        raise InputError(f"--with_text: the data changed since {trial.directory} was made")
    test = corpus.splits["test"]
    return dict(zip(test.ids, test.texts, strict=True))
