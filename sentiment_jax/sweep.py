"""`--mode=sweep`: trains the runs of a plan, chooses by validation, retrains and tests the winner.

One directory a run, its lock and its result.json are the whole state: any number of processes may
drain one sweep, and a killed one goes on where it was.
"""

import contextlib
import dataclasses
import errno
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax import train
from sentiment_jax.config import HARMLESS, flatten
from sentiment_jax.data import tokenization
from sentiment_jax.errors import DiskFull, InputError, Interrupted, InUse, RunError
from sentiment_jax.runtime import devices
from sentiment_jax.storage.files import file_sha256, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import command_line, prepare_workdir
from sentiment_jax.sweeps.console import SweepProgress, conclude, describe_sweep, write_table
from sentiment_jax.sweeps.plan import (
    FINAL,
    PLAN_FILE,
    Plan,
    Trial,
    check_same_plan,
    iterate_stages,
    make_plan,
    read_plan,
)
from sentiment_jax.training.experiment import Experiment, prepare_experiment, resolve
from sentiment_jax.training.signals import Stop

POLL_SECONDS = 2.0  # between two looks at runs that other processes hold


def sweep(
    config: ConfigDict,
    directory: Path,
    axes: Mapping[str, Any],
    *,
    overridden: Collection[str] = (),
    only: str | None = None,
    workers: int = 1,
    retry_failed: bool = False,
) -> None:
    """Drains a sweep, alone or beside other processes, and prints its table.

    Args:
      config: one of configs/, with its overrides.
      directory: the sweep's; holds sweep.json, table.csv and a folder a run.
      axes: the config's get_sweep(), with the command line's values in it.
      overridden: config fields named on the command line.
      only: "i/n" takes every n-th run, from the i-th. A grid's share ends with its last run, and
        the share that ends last tests the winner; in stages, every share waits for the others.
      workers: processes to use, this one included; they divide the cores among them.
      retry_failed: try the failed runs again.

    Raises:
      InputError: bad plan or data, or another sweep in `directory`.
      RunError: nothing to choose from, a winner that could not be tested, a full disk.
      Interrupted: SIGTERM or Ctrl-C; the current run is saved.
    """
    share = _parse_share(only)
    prepare_workdir(directory)
    resolved = resolve(config)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = [cores[worker::workers] for worker in range(workers)]
    with _on_cores(shares[0]):
        prepare = _keep_experiment()
        plan = _join(directory, make_plan(resolved, axes, overridden), prepare)
        if retry_failed:
            for folder in (directory, directory / FINAL):
                for failure in folder.glob("*/failed.json"):
                    failure.unlink(missing_ok=True)
        progress = SweepProgress(plan, directory)
        with Stop() as stop, _helpers(shares[1:], directory, stop):
            worker = _Worker(plan, resolved, prepare, share, progress, stop)
            runs: list[Trial] = []
            for runs in iterate_stages(plan, directory):
                if not worker.drain(runs):
                    write_table(plan, directory)
                    left = sum(run.outcome().status == "open" for run in runs)
                    print(
                        f"this share is done; {left} runs are open, "
                        "the share that ends last goes on"
                    )
                    return
    conclude(plan, directory, runs)


def _parse_share(only: str | None) -> tuple[int, int]:
    if only is None:
        return 1, 1
    first, _, count = only.partition("/")
    if first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count):
        return int(first), int(count)
    raise InputError(f"--only={only}: write i/n with 1 <= i <= n, 2/8 for example")


def _keep_experiment() -> Callable[..., Experiment]:
    """A prepare_experiment that reads and encodes the reviews once for all runs of a process."""
    kept: list[Experiment] = []

    def prepare(config: ConfigDict, tokenizer: Any = None) -> Experiment:
        if not kept:
            kept.append(prepare_experiment(config))
        experiment = kept[0]
        same = tokenizer is None or (
            tokenization.tokenizer_hash(tokenizer)
            == tokenization.tokenizer_hash(experiment.tokenizer)
        )
        return (
            dataclasses.replace(experiment, config=config)
            if same
            else prepare_experiment(config, tokenizer)
        )

    return prepare


def _join(directory: Path, plan: Plan, prepare: Callable[..., Experiment]) -> Plan:
    """Writes sweep.json, or checks that the one there is the same; returns what is on disk."""
    path = directory / PLAN_FILE
    for size in {*plan.axes["batch_size"], plan.config.eval_batch_size}:
        devices.check_batch_size("batch_size", size)
    if path.exists():
        check_same_plan(directory, read_plan(directory), plan)
    experiment = prepare(plan.config)
    reviews, largest = len(experiment.encoded["train"]), max(plan.axes["batch_size"])
    if largest > reviews:
        raise InputError(
            f"batch_size={largest} is larger than the {reviews} training reviews; use at most "
            f"{reviews} (--sweep_batch_size)"
        )
    command = command_line()
    plan = dataclasses.replace(plan, data_hash=experiment.statistics["data_hash"], command=command)
    if not path.exists():
        mine = path.with_name(f".{path.name}.{os.getpid()}.new")
        write_json(mine, plan.to_json())
        # Of two processes that begin together, only one can create the file.
        with contextlib.suppress(FileExistsError):
            os.link(mine, path)
        mine.unlink()
    stored = read_plan(directory)
    check_same_plan(directory, stored, plan)
    if stored.data_hash != plan.data_hash:
        raise InputError(
            f"the data changed since the sweep in {directory} began: hash {stored.data_hash[:12]} "
            f"then, {plan.data_hash[:12]} now; choose another --workdir"
        )
    describe_sweep(stored, directory, reviews)
    return stored


@dataclasses.dataclass
class _Worker:
    """One process's part in a sweep."""

    plan: Plan
    config: ConfigDict
    prepare: Callable[..., Experiment]
    share: tuple[int, int]
    progress: SweepProgress
    stop: Stop

    def drain(self, runs: list[Trial]) -> bool:
        """Trains what nobody else does; True once the stage is complete, False to leave it open."""
        first, count = self.share
        mine = runs if runs[0].stage == FINAL else runs[first - 1 :: count]
        while any(run.outcome().status == "open" for run in mine):
            if not any([self._try(run, runs) for run in mine]):
                self._wait(runs)
        if count > 1 and self.plan.procedure == "grid":
            return all(run.outcome().status != "open" for run in runs)
        while any(run.outcome().status == "open" for run in runs):
            self._wait(runs)
        self.progress.update(runs)
        return True

    def _wait(self, runs: list[Trial]) -> None:
        time.sleep(POLL_SECONDS)
        self.progress.update(runs)
        self._check_stop()

    def _check_stop(self) -> None:
        if self.stop.requested:
            raise Interrupted("stopped between two runs; run the same command to continue")

    def _try(self, run: Trial, runs: list[Trial]) -> bool:
        """Trains one run to its end; False where it has ended, or another process holds it."""
        self._check_stop()
        if run.outcome().status != "open":
            return False
        # Paths and cadence as this process was told, everything else as planned.
        config = ConfigDict(run.config.to_dict())
        own = flatten(self.config)
        config.update_from_flattened_dict({name: own[name] for name in HARMLESS})
        try:
            _execute(run, config, self.prepare)
        except InUse:
            return False
        self.progress.update(runs)
        return True


def _execute(run: Trial, config: ConfigDict, prepare: Callable[..., Experiment]) -> None:
    """Trains one run, what it says going to its log.txt; a failure becomes its failed.json."""
    prepare_workdir(run.directory)
    log = (run.directory / "log.txt").open("a", encoding="utf-8")
    try:
        with log, contextlib.redirect_stdout(log):
            train.train(config, run.directory, score_test=run.stage == FINAL, prepare=prepare)
    except (InputError, Interrupted, DiskFull):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFull(f"disk full while {run.directory} was trained ({error})") from error
        reason = str(error)
        if not isinstance(error, RunError):
            traceback.print_exc()
            reason = f"{type(error).__name__}: {reason}"
        metrics = run.directory / "metrics.jsonl"
        records = read_metrics(metrics)
        reached = records[-1]["step"] if records else 0
        failure = {"reason": " ".join(reason.split()), "step": getattr(error, "step", reached)}
        failure["metrics_sha256"] = file_sha256(metrics) if metrics.exists() else None
        write_json(run.directory / "failed.json", failure)


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """Keeps this thread, and what it starts meanwhile, on some cores; on all where none is named.

    Two small models side by side, a core each, train far faster than one after the other on both.
    """
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _helpers(shares: Sequence[Collection[int]], directory: Path, stop: Stop) -> Iterator[None]:
    """Runs the same command in more processes meanwhile, one for every share of the cores.

    Their output goes to log files.
    """
    command = [sys.executable, "-m", "sentiment_jax.main", *sys.argv[1:]]
    processes: list[subprocess.Popen] = []
    try:
        for number, cores in enumerate(shares, start=2):
            log_path = directory / f"worker-{number}.log"
            with log_path.open("a", encoding="utf-8") as log, _on_cores(cores):
                # A session of their own: Ctrl-C reaches this process alone, which passes it on.
                processes.append(
                    subprocess.Popen(
                        [*command, "--workers=1", "--noretry_failed"],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        yield
        while any(process.poll() is None for process in processes) and not stop.requested:
            time.sleep(0.1)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for number, process in enumerate(processes, start=2):
            if process.wait() not in (0, 143):
                where = directory / f"worker-{number}.log"
                print(
                    f"warning: worker {number} ended with exit code {process.returncode}: {where}",
                    file=sys.stderr,
                )
