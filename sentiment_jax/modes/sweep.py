"""`--mode=sweep`: trains trials, chooses by validation, retrains and tests the winner.

Each trial's directory, with its lock and its result.json, is the whole state: any number of
processes may work on one sweep, and a killed one continues from there.
"""

import contextlib
import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tokenizers import Tokenizer

from sentiment_jax.config.schema import HARMLESS, Config
from sentiment_jax.config.stored import flatten, replace_settings
from sentiment_jax.data.tokenization import tokenizer_hash
from sentiment_jax.errors import DiskFull, InputError, Interrupted, InUse, RunError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import launch, terminal
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.files import checksums, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import SWEEP_FILE, RunDirectory, prepare_workdir
from sentiment_jax.sweeps import plan, slurm
from sentiment_jax.sweeps.console import SweepProgress, conclude, write_table
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial
from sentiment_jax.training.checks import (
    check_batch_sizes,
    check_reviews,
    check_source_settings,
    check_sources,
    resolve,
)
from sentiment_jax.training.experiment import Experiment, prepare_experiment, with_classes
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import make_classifier

WORKER = "SENTIMENT_JAX_WORKER"  # an environment variable of the processes that a sweep starts
POLL_SECONDS = 2.0  # between two looks at trials that other processes train


@dataclasses.dataclass(frozen=True)
class Execution:
    """By which processes a sweep is executed, and for how long.

    With `only`, a process that works on a grid ends after its own trials, and the one that ends
    last retrains the winner. In stages, every process waits for the others.
    """

    workers: int = 1  # processes that divide the cores, this one included
    jobs: int = 0  # of a SLURM array that trains while this process follows it
    sbatch: str = ""  # options of the array
    only: str | None = None  # i/n: this process takes every n-th trial, from the i-th
    retry_failed: bool = False  # train the failed trials again
    stop_after: float | None = None  # seconds

    def own(self, trials: Sequence[Trial]) -> Sequence[Trial]:
        """Return the trials of a stage that this process takes."""
        first, _, count = (self.only or "1/1").partition("/")
        if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
            raise InputError(f"--only={self.only}: write i/n with 1 <= i <= n, for example 2/8")
        return trials[int(first) - 1 :: int(count)]


def sweep(
    recipe: ConfigDict,
    directory: Path,
    axes: Mapping[str, Any],
    *,
    config_file: str = "",
    overrides: Mapping[str, Any] | None = None,
    execution: Execution = Execution(),
) -> None:
    """Complete a sweep, alone or beside other processes, and print its result.

    `directory` will hold sweep.json, table.csv and a folder for each trial. `axes` are the config's
    get_sweep(), updated with the command line's values. `config_file` and `overrides` come from
    there too, for the commands that repeat a trial.

    Raises:
      InputError: bad plan or data, or another sweep in `directory`.
      RunError: nothing to choose from, a winner that could not be tested, a full disk.
      Interrupted: SIGTERM, Ctrl-C or the end of the time; the current trial is saved.
    """
    execution.own([])
    prepare_workdir(directory)
    if execution.workers > 1:  # by default each process takes three quarters of a GPU's memory
        memory = f"{0.9 / execution.workers:.2f}"
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", memory)
    config = resolve(plan.name_winners(recipe))
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores_by_worker = [cores[worker :: execution.workers] for worker in range(execution.workers)]
    _use_cores(cores_by_worker[0])
    planned, experiment = _join(
        plan.plan_sweep(directory, config, axes, config_file=config_file, overrides=overrides)
    )
    if execution.retry_failed:
        for run in planned.run_directories():
            run.failed.unlink(missing_ok=True)
    progress = SweepProgress(planned, len(experiment.encoded["train"]))
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(Stop(execution.stop_after))
        if os.environ.pop(WORKER, ""):
            launch.when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
        array = None
        if execution.jobs:
            array = slurm.Array(directory, execution.jobs, execution.sbatch, _worker_command())
        else:
            stack.enter_context(_start_workers(cores_by_worker, directory, stop))
        for trials in planned.stages():
            own = trials if trials[0].stage == FINAL else execution.own(trials)
            awaited = own if planned.procedure == "grid" else trials
            while _count_open(awaited):
                trained = False
                for trial in () if array else own:
                    trained = _train_if_free(trial, experiment, config, stop) or trained
                    progress.update(trials)
                if not trained:
                    time.sleep(POLL_SECONDS)
                    progress.update(trials)
                    if array:
                        array.check(stop.requested)
                    _check_stop(stop)
            progress.update(trials)
            if left := _count_open(trials):
                write_table(planned)
                print(
                    f"the trials of --only={execution.only} have ended, {left} of other processes "
                    "are open; the process that ends last retrains the winner"
                )
                return
    conclude(planned, trials)


def _count_open(trials: Sequence[Trial]) -> int:
    return sum(trial.refresh().status == "open" for trial in trials)


def _check_stop(stop: Stop) -> None:
    if stop.requested:
        raise Interrupted("stopped between two trials; run the same command to continue")


def _join(new: Sweep) -> tuple[Sweep, Experiment]:
    """Write sweep.json, or check that the one there is the same; return it and read the reviews."""
    samples = list(new.samples())
    for sample in samples:
        check_batch_sizes(sample)
    exists = (new.directory / SWEEP_FILE).exists()
    if exists:
        plan.read_sweep(new.directory).check_same(new)
    elif RunDirectory(new.directory).config.exists():
        raise InputError(f"{new.directory} holds a run: choose another --workdir for a sweep")
    else:
        for sample in samples:
            check_source_settings(sample)
        check_sources(new.config)
    experiment = prepare_experiment(new.config)
    check_reviews(max(new.axes["batch_size"]), len(experiment.encoded["train"]))
    data_hash = experiment.statistics["data_hash"]
    if not exists:
        dataclasses.replace(new, data_hash=data_hash, command=run_directory.command_line()).write()
    planned = plan.read_sweep(new.directory)
    if planned.data_hash != data_hash:
        raise InputError(
            f"the data changed since the sweep in {new.directory} began: hash "
            f"{planned.data_hash[:12]} then, {data_hash[:12]} now; choose another --workdir"
        )
    return planned, experiment


def _train_if_free(trial: Trial, first: Experiment, own: Config, stop: Stop) -> bool:
    """Train one trial to its end; return False if it has ended or another process trains it.

    The `first` experiment provides the reviews; this process's `own` config provides paths and
    other settings that do not affect results.
    """

    def prepare(config: Config, tokenizer: Tokenizer | None = None) -> Experiment:
        same = tokenizer is None or tokenizer_hash(tokenizer) == tokenizer_hash(first.tokenizer)
        config = with_classes(config, first.classes)
        if not same or config.data != first.config.data:
            return prepare_experiment(config, tokenizer)
        return dataclasses.replace(first, **vars(make_classifier(config, first.tokenizer)))

    _check_stop(stop)
    if trial.refresh().status != "open":
        return False
    flat = flatten(own)
    config = replace_settings(trial.config, {name: flat[name] for name in HARMLESS})
    prepare_workdir(trial.directory)
    log = (trial.directory / "log.txt").open("a", encoding="utf-8")
    try:
        with log, contextlib.redirect_stdout(log):
            tested = trial.stage == FINAL
            train(config, trial.directory, score_test=tested, prepare=prepare, stop=stop)
    except InUse:
        return False
    except (InputError, Interrupted, DiskFull):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DiskFull(f"disk full while training {trial.directory} ({error})") from error
        reason = str(error)
        if not isinstance(error, RunError):  # a bug
            traceback.print_exception(error)
            reason = f"{type(error).__name__}: {reason}"
        metrics = trial.files.metrics
        reached = max((line["step"] for line in read_metrics(metrics)), default=0)
        failure = {"reason": " ".join(reason.split()), "step": getattr(error, "step", reached)}
        sums = checksums(metrics) if metrics.exists() else {}
        write_json(trial.files.failed, failure | sums)
    return True


def _use_cores(cores: Collection[int]) -> None:
    """Keep this thread, and what it starts from now on, on some cores, if any are given.

    Two small models side by side, one core each, train far faster than one after the other on both.
    """
    if cores:
        os.sched_setaffinity(0, cores)


def _worker_command() -> list[str]:
    """Return this command for another process of the same sweep."""
    alone = ("--noretry_failed", "--launcher=local", "--jobs=0", "--sbatch=")
    return [sys.executable, "-m", "sentiment_jax.main", *sys.argv[1:], *alone]


@contextlib.contextmanager
def _start_workers(
    cores_by_worker: Sequence[Collection[int]], directory: Path, stop: Stop
) -> Iterator[None]:
    """Meanwhile run the same command for the other workers, with their output in log files."""
    command = [*_worker_command(), "--workers=1"]
    processes: dict[Path, subprocess.Popen] = {}
    try:
        for number, cores in enumerate(cores_by_worker[1:], start=2):
            log_path = directory / f"worker-{number}.log"
            _use_cores(cores)  # which the worker inherits
            with log_path.open("a", encoding="utf-8") as log:
                # A session of their own: Ctrl-C reaches this process alone, which passes it on.
                processes[log_path] = subprocess.Popen(
                    command,
                    env={**os.environ, WORKER: "yes"},
                    stdin=subprocess.PIPE,  # closed by the kernel when this process ends
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        _use_cores(cores_by_worker[0])
        yield
        while any(p.poll() is None for p in processes.values()) and not stop.requested:
            time.sleep(0.1)
    finally:
        for process in processes.values():
            process.terminate()
        for log_path, process in processes.items():
            if (code := process.wait()) not in (0, 143):
                name = log_path.stem.replace("-", " ")
                terminal.warn(f"{name} ended with exit code {code}: {log_path}")
