"""Read finished, failed and open trials back, from their directories alone."""

import collections
import dataclasses
import itertools
import os
import re
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any

from sentiment_jax.analysis.predictions import mean_scores
from sentiment_jax.config.schema import HARMLESS
from sentiment_jax.config.stored import flatten
from sentiment_jax.errors import InputError
from sentiment_jax.runtime import terminal
from sentiment_jax.storage.run_directory import SWEEP_FILE, VECTORS, RunDirectory
from sentiment_jax.storage.selection import BY_ACCURACY, Ranking
from sentiment_jax.sweeps.directories import Comparison, open_directory
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial, best_finished, in_words


@dataclasses.dataclass
class Group:
    """Trials that are reported together: a sweep's, or runs that differ only in the seed."""

    name: str  # unique in a report; figures and tables are named after it
    finals: list[Trial]  # scored on the test set
    rounds: dict[str, list[Trial]] = dataclasses.field(default_factory=dict)  # of the sweep
    sweep: Sweep | None = None  # None for plain runs

    @property
    def model(self) -> str:
        """What a page calls the model."""
        return self.trials[0].config.model.title

    @property
    def trials(self) -> list[Trial]:
        """All trials, each once: the winner of a round is part of the next."""
        trials = itertools.chain(*self.rounds.values(), self.finals)
        return list({trial.directory: trial for trial in trials}.values())

    @property
    def finished(self) -> list[Trial]:
        """The trials that have a result."""
        return [trial for trial in self.trials if trial.status == "finished"]

    @property
    def tested(self) -> list[Trial]:
        """The finished trials with a test score."""
        return [trial for trial in self.finals if "test" in trial.content]

    def test_scores(self, metric: str) -> list[float]:
        """Return a score on the test set of each seed."""
        return [trial.content["test"][metric] for trial in self.tested]

    @property
    def validation(self) -> dict[str, Any]:
        """The mean validation scores of the tested trials."""
        scores = [trial.content["val"] for trial in self.tested]
        return mean_scores(scores) if scores else {}

    @property
    def best(self) -> Trial | None:
        """The best trial of the last round by validation: the choice of a sweep that has ended."""
        return best_finished(next(reversed(self.rounds.values()), self.finals))

    @property
    def choices(self) -> dict[str, dict[str, Trial]]:
        """The axes of the sweep along which there are several trials, and these."""
        lines = {axis: self.along(axis) for axis in self.trials[0].axes}
        return {axis: trials for axis, trials in lines.items() if len(trials) > 1}

    def along(self, axis: str) -> dict[str, Trial]:
        """Return value of an axis -> trial: its round, or the grid's line through the best."""
        trials = self.rounds.get(axis, [])
        if "grid" in self.rounds and self.best is not None:
            here = {**self.best.setting, axis: None}
            trials = [t for t in self.rounds["grid"] if {**t.setting, axis: None} == here]
        return {in_words({axis: trial.setting[axis]}): trial for trial in trials}


def collect(directories: Sequence[Path]) -> list[Group]:
    """Read the sweeps and runs in, or directly under, some directories.

    InputError: nothing finished, a damaged file, trials that can't be compared.
    """
    groups = _read_groups(itertools.chain(*map(_find, directories)))
    trials = [trial for group in groups for trial in group.trials]
    counts = collections.Counter(trial.status for trial in trials)
    if not counts["finished"]:
        raise InputError(
            f"nothing is finished in {', '.join(map(str, directories))}: {counts['failed']} runs "
            f"failed, {counts['open']} are open; let one end first"
        )
    if counts["open"]:
        terminal.warn(f"{counts['open']} of {len(trials)} runs are not finished yet")
    for trial in trials:
        _ = trial.env, trial.metrics  # damage is found before anything is computed
        if trial.status == "finished" and not trial.content["val"]:
            raise InputError(
                f"{trial.directory} held out no texts (data.validation_fraction=0), and a report "
                "ranks models by their scores on these; --mode=evaluate scores it"
            )
    for group in groups:
        if len({trial.config.data.split_seed for trial in group.trials}) > 1:
            raise InputError(
                f"{group.name} has trials of several splits, which a report can't compare: its "
                "table.csv has their scores"
            )
        if len({trial.content["data_hash"] for trial in group.finished}) > 1:
            raise InputError(f"the data of the sweep {group.name} changed between its runs")
    return groups


def by_data(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """Partition groups by their data: name of the data -> groups, the best first.

    The rank is that of the mean validation scores by `ranking_of` the part. Groups without a
    finished trial join the first part.
    """
    parts: dict[Any, list[Group]] = {}
    for group in sorted(groups, key=lambda group: not group.finished):
        key: Any = next(iter(parts), None)
        for trial in group.finished[:1]:
            key = trial.content["data_hash"]
        parts.setdefault(key, []).append(group)
    named: dict[str, list[Group]] = {}
    for part in parts.values():
        data = part[0].trials[0].config.data
        name = {"tfds": "IMDB", "sample": "sample"}.get(data.source) or Path(data.path).stem
        ranking = ranking_of(part)
        part.sort(key=lambda group: ranking.key(group.validation or None), reverse=True)  # noqa: B023
        named[_unique(name or "texts", named)] = part
    return named


def ranking_of(groups: Sequence[Group]) -> Ranking:
    """Return the ranking that the configs of all groups ask for, or by accuracy if they differ."""
    rankings = {group.trials[0].ranking for group in groups}
    return rankings.pop() if len(rankings) == 1 else BY_ACCURACY


def _unique(name: str, taken: Container[str]) -> str:
    """Return the name, with a number if it is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(name for name in itertools.chain([name], numbered) if name not in taken)


def _read_groups(found: Iterable[RunDirectory | Sweep]) -> list[Group]:
    """Read sweeps and runs, and give each group a name of its own."""
    groups = []
    runs = collections.defaultdict(list)  # by their config without the seed, data and sources
    for each in found:
        if isinstance(each, Sweep):
            rounds = {trials[0].round: trials for trials in each.rounds()}
            name = each.directory.resolve().name
            groups.append(Group(name, rounds.pop(FINAL, []), rounds, each))
            continue
        trial = Trial("run", each.path, each.read_classifier()).refresh()
        settings = flatten(trial.config).items()
        key = frozenset(item for item in settings if item[0] not in (*HARMLESS, "seed"))
        sources = str(trial.env.get("sources"))  # other weights make another model
        runs[key, trial.env.get("data", {}).get("data_hash"), sources].append(trial)
    groups += [Group(_common_name(trials), trials) for trials in runs.values()]
    for number, group in enumerate(groups):
        group.name = _unique(group.name, {other.name for other in groups[:number]})
    return groups


def _find(directory: Path) -> list[RunDirectory | Sweep]:
    """Return the sweep or run in a directory, or the sweeps and runs directly under it."""
    if not directory.is_dir():
        remedy = "--workdir names sweeps and runs, A,B,..., or one whose name holds a comma"
        raise InputError(f"no directory {directory}: {remedy}")
    if re.search("[\ud800-\udfff]", str(directory.resolve())):
        raise InputError(f"{directory!a}: a name that is not UTF-8 can't be printed; rename it")
    parts = [(directory / name).exists() for name in ("table.csv", FINAL, SWEEP_FILE)]
    if parts == [True, True, False]:
        raise InputError(f"{directory} is a sweep without {SWEEP_FILE}: run its command again")
    named = open_directory(directory)
    skipped = VECTORS if isinstance(named, Comparison) else ""
    inside = (path for path in sorted(directory.iterdir()) if path.name != skipped)
    for opened in [named], map(open_directory, inside):
        if found := [each for each in opened if isinstance(each, RunDirectory | Sweep)]:
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
