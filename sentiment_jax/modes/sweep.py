"""`--mode=sweep`: trains the trials of a plan, chooses by validation, tests the winner.

Each trial's directory, with its lock and its result.json, is the whole state: any number of
processes may work on one sweep, and a killed one continues where it was.
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

from sentiment_jax.config.stored import HARMLESS, flatten
from sentiment_jax.data import tokenization
from sentiment_jax.errors import DiskFull, InputError, Interrupted, InUse, RunError
from sentiment_jax.modes.train import train
from sentiment_jax.runtime import devices, launch, terminal
from sentiment_jax.storage.files import checksums, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory, command_line, prepare_workdir
from sentiment_jax.sweeps import slurm
from sentiment_jax.sweeps.console import SweepProgress, conclude, write_table
from sentiment_jax.sweeps.plan import FINAL, PLAN_FILE, Sweep, Trial, plan_sweep, read_sweep
from sentiment_jax.training.checks import check_settings, resolve
from sentiment_jax.training.experiment import Experiment, prepare_experiment, with_classes
from sentiment_jax.training.lineage import check_sources
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import make_classifier

WORKER = "SENTIMENT_JAX_WORKER"  # a variable of the processes that a sweep starts
POLL_SECONDS = 2.0  # between two looks at trials that other processes hold


def sweep(
    config: ConfigDict,
    directory: Path,
    axes: Mapping[str, Any],
    *,
    config_file: str = "",
    overrides: Mapping[str, Any] | None = None,
    only: str | None = None,
    workers: int = 1,
    retry_failed: bool = False,
    stop_after: float | None = None,
    jobs: int = 0,
    sbatch: str = "",
) -> None:
    """Complete a sweep, alone or beside other processes, and print its result.

    `directory` will hold sweep.json, table.csv and a folder for each trial. `axes` are the config's
    get_sweep(), updated with the command line's values; `config_file` and `overrides` come from
    there too, for the commands that repeat a trial. `only="i/n"` takes every n-th trial, from the
    i-th: a grid's share ends with its last trial, and the share that ends last tests the winner; in
    stages, every share waits for the others. The `workers`, this process included, divide the cores
    among them; with `jobs`, an array of so many SLURM jobs, submitted with the options `sbatch`,
    trains instead, and this process follows. After `stop_after` seconds the sweep ends as it does
    on a signal.

    Raises:
      InputError: bad plan or data, or another sweep in `directory`.
      RunError: nothing to choose from, a winner that could not be tested, a full disk.
      Interrupted: SIGTERM, Ctrl-C or the end of the time; the current trial is saved.
    """
    first, _, count = ("1/1" if only is None else only).partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise InputError(f"--only={only}: write i/n with 1 <= i <= n, 2/8 for example")
    prepare_workdir(directory)
    resolved = resolve(config)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares = [cores[worker::workers] for worker in range(workers)]
    with contextlib.ExitStack() as stack:
        stack.enter_context(_on_cores(shares[0]))
        plan, experiment = _join(plan_sweep(directory, resolved, axes, config_file, overrides))
        if retry_failed:
            for run in (*directory.glob("*/"), *directory.glob(f"{FINAL}/*/")):
                RunDirectory(run).failed.unlink(missing_ok=True)
        progress = SweepProgress(plan, len(experiment.encoded["train"]))
        stop = stack.enter_context(Stop(stop_after))
        if os.environ.pop(WORKER, ""):
            launch.when_parent_ends(lambda: os.kill(os.getpid(), signal.SIGTERM))
        array = slurm.Array(directory, jobs, sbatch, _worker_command()) if jobs else None
        helpers = () if array else shares[1:]
        stack.enter_context(_helpers(helpers, directory, stop))
        for trials in plan.stages():
            mine = trials if trials[0].stage == FINAL else trials[int(first) - 1 :: int(count)]
            while _count_open(mine if plan.procedure == "grid" else trials):
                trained = 0
                for trial in () if array else mine:
                    trained += _train_if_free(trial, experiment, resolved, stop)
                    progress.update(trials)
                if not trained:
                    time.sleep(POLL_SECONDS)
                    progress.update(trials)
                    if array:
                        array.check(stop.requested)
                    _check_stop(stop)
            progress.update(trials)
            if left := _count_open(trials):
                write_table(plan)
                print(f"this share is done; {left} runs are open, the last share to end continues")
                return
    conclude(plan, trials)


def _count_open(trials: Sequence[Trial]) -> int:
    return sum(trial.refresh().status == "open" for trial in trials)


def _check_stop(stop: Stop) -> None:
    if stop.requested:
        raise Interrupted("stopped between two runs; run the same command to continue")


def _join(new: Sweep) -> tuple[Sweep, Experiment]:
    """Write sweep.json, or check that the one there is the same; return it and read the reviews."""
    path = new.directory / PLAN_FILE
    for size in new.axes["batch_size"]:
        devices.check_batch_size("batch_size", size, new.config.gradient_accumulation)
    devices.check_batch_size("eval_batch_size", new.config.eval_batch_size)
    if path.exists():
        read_sweep(new.directory).check_same(new)
    elif RunDirectory(new.directory).config.exists():
        raise InputError(f"{new.directory} holds a run: choose another --workdir for a sweep")
    else:
        for tried in new.tried():
            check_settings(tried)
        check_sources(new.config)
    experiment = prepare_experiment(new.config)
    reviews, largest = len(experiment.encoded["train"]), max(new.axes["batch_size"])
    if largest > reviews:
        raise InputError(
            f"batch_size={largest} is larger than the {reviews} training reviews; use at most "
            f"{reviews} (--sweep_batch_size)"
        )
    data_hash = experiment.statistics["data_hash"]
    if not path.exists():
        dataclasses.replace(new, data_hash=data_hash, command=command_line()).write()
    stored = read_sweep(new.directory)
    stored.check_same(new)
    if stored.data_hash != data_hash:
        raise InputError(
            f"the data changed since the sweep in {new.directory} began: hash "
            f"{stored.data_hash[:12]} then, {data_hash[:12]} now; choose another --workdir"
        )
    return stored, experiment


def _train_if_free(trial: Trial, first: Experiment, own: ConfigDict, stop: Stop) -> bool:
    """Train one trial to its end; return False if it has ended or another process holds it.

    Reviews come from the `first` experiment, paths and cadence from this process's `own` config.
    """

    def prepare(config: ConfigDict, tokenizer: Any = None) -> Experiment:
        digest = tokenization.tokenizer_hash
        same = tokenizer is None or digest(tokenizer) == digest(first.tokenizer)
        named = with_classes(config, first.classes)
        if not same or named.data != first.config.data:
            return prepare_experiment(config, tokenizer)
        return dataclasses.replace(first, **vars(make_classifier(named, first.tokenizer)))

    _check_stop(stop)
    if trial.refresh().status != "open":
        return False
    config, flat = ConfigDict(trial.config.to_dict()), flatten(own)
    config.update_from_flattened_dict({name: flat[name] for name in HARMLESS})
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
            raise DiskFull(f"disk full while {trial.directory} was trained ({error})") from error
        reason = str(error)
        if not isinstance(error, RunError):  # no run should end with it
            traceback.print_exception(error)
            reason = f"{type(error).__name__}: {reason}"
        metrics = trial.files.metrics
        reached = max((line["step"] for line in read_metrics(metrics)), default=0)
        failure = {"reason": " ".join(reason.split()), "step": getattr(error, "step", reached)}
        sums = checksums(metrics) if metrics.exists() else {}
        write_json(trial.files.failed, failure | sums)
    return True


@contextlib.contextmanager
def _on_cores(cores: Collection[int]) -> Iterator[None]:
    """Keep this thread, and what it starts meanwhile, on some cores; on all where none is named.

    Two small models side by side, one core each, train far faster than one after the other on both.
    """
    if cores:
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, before)


def _worker_command() -> list[str]:
    """This command, for another process of the same sweep."""
    alone = ("--noretry_failed", "--launcher=local", "--jobs=0", "--sbatch=")
    return [sys.executable, "-m", "sentiment_jax.main", *sys.argv[1:], *alone]


@contextlib.contextmanager
def _helpers(shares: Sequence[Collection[int]], directory: Path, stop: Stop) -> Iterator[None]:
    """Meanwhile run the same command once per share of the cores, its output in a log file."""
    command = [*_worker_command(), "--workers=1"]
    processes: dict[Path, subprocess.Popen] = {}
    try:
        for number, cores in enumerate(shares, start=2):
            log_path = directory / f"worker-{number}.log"
            with log_path.open("a", encoding="utf-8") as log, _on_cores(cores):
                # A session of their own: Ctrl-C reaches this process alone, which passes it on.
                processes[log_path] = subprocess.Popen(
                    command,
                    env={**os.environ, WORKER: "yes"},
                    stdin=subprocess.PIPE,  # closed by the kernel when this process ends
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
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
