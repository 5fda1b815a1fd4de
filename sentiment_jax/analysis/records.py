"""Reads finished, failed and open runs back, from their directories alone."""

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.config import HARMLESS, config_difference, flatten
from sentiment_jax.errors import InputError
from sentiment_jax.storage.files import check_checksum, read_json
from sentiment_jax.storage.metrics_log import read_metrics, validation_rank
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import FINAL, PLAN_FILE, Plan, Trial, iterate_stages, read_plan

SWEEP_FLAGS = ("mode", "sweep_", "workers", "only", "retry_failed", "noretry_failed", "workdir")
BOOLEAN_FLAGS = ("retry_failed", "noretry_failed")


@dataclasses.dataclass(frozen=True)
class Record:
    """One run and everything that its directory holds, checkpoints and predictions apart."""

    run: Trial
    status: str  # finished | failed | open
    content: dict[str, Any]  # result.json or failed.json
    metrics: list[dict[str, Any]]
    env: dict[str, Any]
    command: str

    @property
    def hardware(self) -> str:
        """Machine, and its accelerators where it computed on some."""
        names = [name.partition(": ") for name in self.env.get("devices", [])]
        kinds = [kind for platform, _, kind in names if platform != "cpu"]
        accelerators = [f"; {kinds.count(kind)} x {kind}" for kind in sorted(set(kinds))]
        return "".join([self.env.get("machine", "unknown machine"), *accelerators])


@dataclasses.dataclass(frozen=True)
class Group:
    """A sweep, or runs that differ in nothing but the seed.

    Attributes:
      name: readable, unique in a report.
      plan: of the sweep; None for plain runs.
      stages: the sweep's runs, stage by stage; empty for plain runs.
      finals: the runs that were meant to be tested.
    """

    name: str
    plan: Plan | None
    stages: dict[str, list[Record]]
    finals: list[Record]

    @property
    def records(self) -> list[Record]:
        """All runs, each once."""
        every = [*(record for stage in self.stages.values() for record in stage), *self.finals]
        unique: dict[Path, Record] = {}
        for record in every:  # a stage's winner comes again in the next
            unique.setdefault(record.run.directory, record)
        return list(unique.values())

    @property
    def tested(self) -> list[Record]:
        """The finished runs with a test score."""
        return [record for record in self.finals if "test" in record.content]

    @property
    def best(self) -> Record | None:
        """The best run by validation of the last stage: the sweep's choice, if it has ended."""
        candidates = next(reversed(self.stages.values()), self.finals)
        finished = [record for record in candidates if record.status == "finished"]
        return max(finished, key=lambda r: validation_rank(r.content["val"]), default=None)

    def along(self, axis: str) -> dict[Any, Record]:
        """Value of an axis -> run: the axis' stage, or the grid's line through the best run."""
        best = self.best
        records = self.stages.get(axis, [])
        if "grid" in self.stages and best is not None:
            here = {**best.run.setting, axis: None}
            records = [r for r in self.stages["grid"] if {**r.run.setting, axis: None} == here]
        return {record.run.setting[axis]: record for record in records}


def collect(directories: Sequence[Path]) -> list[Group]:
    """Finds the sweeps and runs in (or right under) some directories and reads them.

    Raises:
      InputError: no such directory, nothing finished in it, a half-written file, or runs that were
        made with different data.
    """
    groups, lone = [], []
    for directory in directories:
        if not directory.is_dir():
            raise InputError(f"no directory {directory}: --workdir names sweeps and runs, A,B,...")
        if (directory / FINAL).is_dir() and not (directory / PLAN_FILE).exists():
            raise InputError(
                f"{directory} is a sweep without its {PLAN_FILE}: run the sweep's command "
                "again, which writes it"
            )
        found = [directory]
        if not _is_ours(directory):
            found = sorted(path for path in directory.iterdir() if _is_ours(path))
        if not found:
            raise InputError(f"{directory} holds no sweep.json and no run's config.json")
        for path in found:
            if (path / PLAN_FILE).exists():
                groups.append(_read_sweep(path))
            else:
                config = RunDirectory(path).read_config()
                lone.append(_read_record(Trial("run", path, config), ""))
    groups += _group_by_setting(lone)
    records = [record for group in groups for record in group.records]
    finished = [record for record in records if record.status == "finished"]
    if not finished:
        failed = sum(record.status == "failed" for record in records)
        raise InputError(
            f"nothing is finished in {', '.join(map(str, directories))}: {failed} runs failed, "
            f"{len(records) - failed} are open; let one end first"
        )
    if left := sum(record.status == "open" for record in records):
        print(f"warning: {left} of {len(records)} runs are not done yet", file=sys.stderr)
    first = finished[0]
    for record in finished:
        if record.content["data_hash"] != first.content["data_hash"]:
            raise InputError(
                f"runs of different data cannot stand side by side: {_data(first)} and "
                f"{_data(record)}; report them apart"
            )
    return _rename(groups)


def _is_ours(path: Path) -> bool:
    return (path / PLAN_FILE).is_file() or (path / "config.json").is_file()


def _data(record: Record) -> str:
    counts = record.env.get("data", {}).get("counts", {})
    total = sum(sum(split.values()) for split in counts.values())
    return f"{record.run.directory} (hash {record.content['data_hash'][:12]}, {total:,} reviews)"


def _read_sweep(directory: Path) -> Group:
    plan = read_plan(directory)
    stages = {
        runs[0].stage: [_read_record(run, run_command(plan, run)) for run in runs]
        for runs in iterate_stages(plan, directory)
    }
    finals = stages.pop(FINAL, [])
    return Group(directory.resolve().name, plan, stages, finals)


def _read_record(run: Trial, command: str) -> Record:
    outcome = run.outcome()
    recorded = outcome.content.get("metrics_sha256")
    env = {}
    if (run.directory / "env.json").exists() or outcome.status == "finished" or recorded:
        env = read_json(run.directory / "env.json")
    if outcome.status == "finished":
        _check_result(run.directory, outcome.content)
    metrics = []
    if outcome.status != "open":  # what an open run has logged, nothing vouches for
        path = run.directory / "metrics.jsonl"
        check_checksum(
            path, {"metrics_sha256": recorded}, "put that file back, or make the run again"
        )
        metrics = read_metrics(path)
    return Record(
        run, outcome.status, outcome.content, metrics, env, command or env.get("command", "")
    )


def _check_result(directory: Path, result: Any) -> None:
    try:
        for split in ("val", "test"):
            if split in result or split == "val":
                _ = result[split]["loss"] + result[split]["accuracy"] + result[split]["examples"]
        _ = result["best_epoch"] + result["train_seconds"] + result["epochs"] + result["parameters"]
        _ = result["data_hash"][:12]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{directory}/result.json is half-written or not ours ({error!r})"
        ) from error


def run_command(plan: Plan, run: Trial) -> str:
    """The command that makes one run of a sweep alone: the sweep's, its flags replaced."""
    kept, skipping = [], False
    for argument in shlex.split(plan.command):
        name, _, value = argument.lstrip("-").partition("=")
        dropped = argument.startswith("-") and (
            name.startswith(SWEEP_FLAGS) or name == "config.seed"
        )
        if not skipping and not dropped:
            kept.append(argument)
        # `--workdir DIR` is as good as `--workdir=DIR`
        skipping = dropped and not value and name not in BOOLEAN_FLAGS
    for change in config_difference(plan.config, run.config):
        field = change.split(":")[0]
        kept.append(f"--config.{field}={flatten(run.config)[field]}")
    kept += [f"--config.seed={run.config.seed}"] if plan.config.seed == run.config.seed else []
    return shlex.join([*kept, f"--workdir=runs/{run.directory.name}"])


def _group_by_setting(records: Sequence[Record]) -> list[Group]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        config = ConfigDict(record.run.config.to_dict())
        config.seed = 0
        flat = flatten(config)
        key = repr(sorted((name, flat[name]) for name in flat if name not in HARMLESS))
        groups.setdefault(key, []).append(record)
    return [Group(_common_name(group), None, {}, group) for group in groups.values()]


def _common_name(group: Sequence[Record]) -> str:
    """What the names of directories share: lstm of lstm-seed0 and lstm-seed1."""
    names = [record.run.directory.resolve().name for record in group]
    if len(names) == 1:
        return names[0]
    return re.sub(r"[-_]*(seed)?[-_]*$", "", os.path.commonprefix(names)) or names[0]


def _rename(groups: list[Group]) -> list[Group]:
    """Makes names unique: they become those of files."""
    taken: set[str] = set()
    for place, group in enumerate(groups):
        name, number = group.name, 2
        while name in taken:
            name, number = f"{group.name}-{number}", number + 1
        taken.add(name)
        groups[place] = dataclasses.replace(group, name=name)
    return groups


def read_texts(groups: Sequence[Group]) -> dict[str, str]:
    """Reads the test set that all runs share, id -> text.

    Raises:
      InputError: it is not what it was.
    """
    from sentiment_jax.config import DataConfig
    from sentiment_jax.data.corpus import load_corpus

    record = next(record for group in groups for record in group.tested)
    corpus = load_corpus(DataConfig(**record.run.config.data.to_dict()))
    if corpus.statistics["data_hash"] != record.content["data_hash"]:
        raise InputError(f"--with_text: the data changed since {record.run.directory} was made")
    test = corpus.splits["test"]
    return dict(zip(test.ids, test.texts, strict=True))
