"""Read finished, failed and open trials back, from their directories alone."""

import collections
import dataclasses
import itertools
import os
import re
import statistics
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.analysis.html import format_rate
from sentiment_jax.config.schema import CLASSES, HARMLESS
from sentiment_jax.config.stored import flatten
from sentiment_jax.data.corpus import load_corpus
from sentiment_jax.data.labels import same_classes
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.run_directory import SWEEP_FILE, RunDirectory
from sentiment_jax.storage.selection import BY_ACCURACY, Ranking
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial


@dataclasses.dataclass
class Group:
    """Trials that are reported together: those of a sweep, or runs that differ only in the seed."""

    name: str  # unique in a report; figures and tables are named after it
    sweep: Sweep | None  # None for plain runs
    stages: dict[str, list[Trial]]  # of the sweep; empty for plain runs
    finals: list[Trial]  # those that are scored on the test set

    @property
    def model(self) -> str:
        """The name of the architecture."""
        return self.trials[0].config.model.name

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: the winner of a stage is part of the next."""
        trials = itertools.chain(*self.stages.values(), self.finals)
        return list({trial.directory: trial for trial in trials}.values())

    @property
    def axes(self) -> Sequence[str]:
        """The names of the axes of the sweep."""
        return tuple(self.sweep.axes) if self.sweep else ()

    @property
    def tested(self) -> list[Trial]:
        """The finished trials with a test score."""
        return [trial for trial in self.finals if "test" in trial.content]

    def mean_test(self, metric: str) -> float:
        """Return the mean of a test score over the seeds."""
        return statistics.mean(trial.content["test"][metric] for trial in self.tested)

    @property
    def validation(self) -> dict[str, Any]:
        """The mean validation scores of the tested trials; a mean of an undefined one is None."""
        scores = [trial.content["val"] for trial in self.tested]
        columns = {name: [of[name] for of in scores] for of in scores[:1] for name in of}
        return {
            name: None if None in values else statistics.mean(values)
            for name, values in columns.items()
        }

    @property
    def best(self) -> Trial | None:
        """The best trial of the last stage by validation: the choice of a sweep that has ended."""
        return plan.best_finished(next(reversed(self.stages.values()), self.finals))

    def along(self, axis: str) -> dict[str, Trial]:
        """Return value of an axis -> trial: its stage, or the grid's line through the best."""
        trials = self.stages.get(axis, [])
        if "grid" in self.stages and self.best is not None:
            here = {**self.best.setting, axis: None}
            trials = [t for t in self.stages["grid"] if {**t.setting, axis: None} == here]
        return {in_words({axis: trial.setting[axis]}): trial for trial in trials}


def in_words(setting: Mapping[str, Any]) -> str:
    """Return values of axes in words: adam, batch 16, learning rate 3e-5."""
    words = []
    for axis, value in setting.items():
        name = {"optimizer": "", "batch_size": "batch"}.get(axis, axis.replace("_", " "))
        shown = format_rate(value) if axis == "learning_rate" else plan.format_value(value)
        words.append(f"{name} {shown}".strip())
    return ", ".join(words)


def collect(directories: Sequence[Path]) -> list[Group]:
    """Read the sweeps and runs in, or directly under, some directories.

    InputError: nothing finished, a damaged file, or a sweep whose data changed.
    """
    groups = _read_groups(itertools.chain(*map(_find, directories)))
    trials = [trial for group in groups for trial in group.trials]
    finished = [trial for trial in trials if trial.status == "finished"]
    unfinished = sum(trial.status == "open" for trial in trials)
    for trial in trials:
        _ = trial.env, trial.metrics  # damage is found before anything is computed
    if not finished:
        failed = len(trials) - unfinished
        raise InputError(
            f"nothing is finished in {', '.join(map(str, directories))}: {failed} runs "
            f"failed, {unfinished} are open; let one end first"
        )
    if unfinished:
        terminal.warn(f"{unfinished} of {len(trials)} runs are not done yet")
    for trial in finished:
        if not trial.content["val"]:
            raise InputError(
                f"{trial.directory} held out no reviews (data.validation_fraction=0): a report "
                "compares scores on those; --mode=evaluate scores it"
            )
    for group in groups:
        if len({t.config.data.split_seed for t in group.trials}) > 1:
            raise InputError(
                f"{group.name} has trials of several splits, which a report can't compare: its "
                "table.csv has their scores"
            )
        if len({t.content["data_hash"] for t in group.trials if t.status == "finished"}) > 1:
            raise InputError(f"the data of the sweep {group.name} changed between its runs")
    return groups


def by_data(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Partition groups by their data and classes; return name of the data -> groups, best first.

    The rank is that of the mean validation scores, by what the configs select by, or by accuracy if
    these differ. Groups without a finished trial join the first part.
    """
    parts: dict[Any, list[Group]] = {}
    for group in groups:
        finished = [trial for trial in group.trials if trial.status == "finished"]
        keys = [(t.content["data_hash"], _classes(t)) for t in finished[:1]]
        parts.setdefault(keys[0] if keys else None, []).append(group)
    unfinished = parts.pop(None, [])
    named: dict[str, list[Group]] = {}
    for part in parts.values():
        data = part[0].trials[0].config.data
        name = {"tfds": "IMDB", "sample": "sample"}.get(data.source) or Path(data.path).stem
        named[_unique(name or "reviews", named)] = part
    next(iter(named.values())).extend(unfinished)
    for part in named.values():
        _sort(part)
    return named


def _sort(groups: list[Group]) -> None:
    rankings = {Ranking.of(group.trials[0].config) for group in groups}
    ranking = rankings.pop() if len(rankings) == 1 else BY_ACCURACY
    groups.sort(key=lambda group: ranking.key(group.validation or None), reverse=True)


def _classes(trial: Trial) -> tuple[str, ...]:
    """Return a trial's classes, but negative and positive in one spelling."""
    classes = trial.files.read_config().classes
    return CLASSES if same_classes(classes, CLASSES) else classes


def _unique(name: str, taken: Container[str]) -> str:
    """Return the name, with a number if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in taken)


def _read_groups(paths: Iterable[Path]) -> list[Group]:
    """Read sweeps and runs, and give each group a name of its own."""
    groups = []
    runs = collections.defaultdict(list)  # by their config without the seed
    for path in paths:
        if (path / SWEEP_FILE).exists():
            sweep = plan.read_sweep(path)
            stages = {trials[0].stage: trials for trials in sweep.stages()}
            finals = stages.pop(FINAL, [])
            groups.append(Group(path.resolve().name, sweep, stages, finals))
            continue
        trial = Trial("run", path, RunDirectory(path).read_classifier()).refresh()
        settings = flatten(trial.config).items()
        key = frozenset(item for item in settings if item[0] not in (*HARMLESS, "seed"))
        data = trial.env.get("data", {}).get("data_hash")  # of a failed or open run
        runs[key, trial.content.get("data_hash", data)].append(trial)
    groups += [Group(_common_name(trials), None, {}, trials) for trials in runs.values()]
    names: set[str] = set()
    for group in groups:
        group.name = _unique(group.name, names)
        names.add(group.name)
    return groups


def _find(directory: Path) -> list[Path]:
    """Return a directory that is a sweep or a run, or those directly under it."""
    if not directory.is_dir():
        remedy = "--workdir names sweeps and runs, A,B,..., or one whose name holds a comma"
        raise InputError(f"no directory {directory}: {remedy}")
    if re.search("[\ud800-\udfff]", str(directory.resolve())):
        raise InputError(f"{directory!a}: a name that is not UTF-8 can't be printed; rename it")
    for paths in [directory], sorted(directory.iterdir()):
        found = [p for p in paths if (p / SWEEP_FILE).is_file() or RunDirectory(p).config.is_file()]
        if found:
            return found
    raise InputError(f"{directory} holds no sweep.json and no run's config.json")


def hardware(trial: Trial) -> str:
    """Return the machine, and its accelerators if the trial used any."""
    devices = [name.partition(": ") for name in trial.env.get("devices", [])]
    kinds = collections.Counter(kind for platform, _, kind in devices if platform != "cpu")
    accelerators = [f"{count} x {kind}" for kind, count in sorted(kinds.items())]
    return "; ".join([trial.env.get("machine", "unknown machine"), *accelerators])


def _common_name(trials: Sequence[Trial]) -> str:
    """Return the common prefix of the directories' names: lstm for lstm-seed0 and lstm-seed1."""
    names = [trial.directory.resolve().name for trial in trials]
    common = re.sub(r"[-_]*(seed)?[-_]*$", "", os.path.commonprefix(names)) or names[0]
    return common.encode()[:190].decode(errors="ignore")  # part of names of files, of 255 bytes


def read_texts(trial: Trial) -> dict[str, str]:
    """Read the test set that a trial was scored on, id -> text; InputError if it changed."""
    corpus = load_corpus(trial.config.data)
    if corpus.statistics["data_hash"] != trial.content["data_hash"]:
        raise InputError(f"--with_text: the data changed since {trial.directory} was made")
    test = corpus.splits["test"]
    return dict(zip(test.ids, test.texts, strict=True))
