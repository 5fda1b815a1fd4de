"""`--mode=sweep`: trains trials, chooses by validation, retrains and tests the winner.

The trials' directories, with their locks and results, are the whole state: any number of processes
may work on one sweep, and a sweep that was killed goes on from there.
"""

import dataclasses
import itertools
import statistics
import time
import traceback
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from sentiment_jax.config.schema import HARMLESS, Config
from sentiment_jax.config.stored import flatten, replace_settings
from sentiment_jax.errors import (
    Diverged,
    InputError,
    Interrupted,
    InUse,
    RunError,
    describe_shortage,
)
from sentiment_jax.modes.train import complete
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.files import checksums, write_csv, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import prepare_workdir, tidied
from sentiment_jax.sweeps import plan
from sentiment_jax.sweeps.directories import open_own
from sentiment_jax.sweeps.plan import FINAL, Sweep, Trial, format_value, in_words
from sentiment_jax.training import checks
from sentiment_jax.training.cross_validation import draw_folds
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.run import Run, open_run, prepare, tokenizer_of
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.classification import with_classes
from sentiment_jax.training.tasks.multi_label import task_of
from sentiment_jax.training.trained_model import make_classifier

POLL_SECONDS = 2.0  # between two looks at trials that other processes train


def sweep(
    recipe: ConfigDict,
    directory: Path,
    axes: Mapping[str, Any],
    *,
    overridden: Collection[str] = (),
    stop_after: float | None = None,
) -> None:
    """Complete a sweep, alone or beside other processes, and print its result.

    Args:
      recipe: a validated config.
      directory: will hold sweep.json, table.csv and a folder for each trial.
      axes: the config's get_sweep(), updated with the command line's values.
      overridden: the settings that the command line changed.
      stop_after: seconds until the current trial is saved and the sweep stops.

    Raises:
      InputError: bad plan or data, or another sweep in `directory`.
      RunError: nothing to choose from, a winner that could not be tested, a full disk.
      Interrupted: SIGTERM, Ctrl-C or the end of the time; the current trial is saved.
    """
    prepare_workdir(directory)
    config = checks.resolve(recipe)
    with tidied(directory):
        planned, experiment = _join(plan.plan_sweep(directory, config, axes, overridden))
    progress = SweepProgress(planned)
    with Stop(stop_after) as stop:
        for trials in planned.rounds():
            while progress.update(trials):
                trained = False
                for trial in trials:
                    trained = _train_if_free(trial, experiment, config, stop) or trained
                    progress.update(trials)
                if not trained:
                    time.sleep(POLL_SECONDS)
    _conclude(planned)


def _join(new: Sweep) -> tuple[Sweep, Experiment]:
    """Write sweep.json, or check that the one there is the same; return it and read the texts."""
    begun = open_own(new.directory, Sweep)
    for sample in new.samples():
        checks.check_batch_sizes(sample)
        if not begun:  # of a sweep that goes on, the sources may be gone
            checks.check_source_settings(sample)
    if begun:
        begun.check_same(new)
    else:
        checks.check_sources(new.config)
    experiment = task_of(new.config).prepare(new.config)
    draw_folds(experiment, max(new.axes["batch_size"]))
    data_hash = experiment.statistics["data_hash"]
    if not begun:
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

    The `first` experiment provides the texts; this process's `own` config provides paths and
    other settings that do not affect results.
    """
    if stop.requested:
        raise Interrupted("stopped between two trials; run the same command to continue")
    if trial.refresh().status != "open":
        return False
    flat = flatten(own)
    config = replace_settings(trial.config, {name: flat[name] for name in HARMLESS})
    try:
        with open_run(config, trial.directory, task_of(config), nested=True, stop=stop) as run:
            if run.finished is None:
                complete(run, _prepare(run, first), tested=trial.round == FINAL)
    except InUse:
        return False
    except (InputError, Interrupted, OSError):  # not due to the setting
        raise
    except Exception as error:
        lost = isinstance(error, RunError) and not isinstance(error, Diverged)
        if lost or describe_shortage(error).startswith("disk"):
            raise
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


def _prepare(run: Run, first: Experiment) -> Experiment:
    """Return the data of a trial: those of the `first` experiment, unless its settings differ."""
    config = with_classes(run.config, first.texts["train"])
    tokenizer = tokenizer_of(run)
    other = tokenizer and tokenizer.to_str() != first.tokenizer.to_str()
    if other or config.data != first.config.data:
        return prepare(run)
    return dataclasses.replace(first, **vars(make_classifier(config, first.tokenizer)))


class SweepProgress:
    """Prints a line for each trial that ends, whichever process trained it, with the time left."""

    def __init__(self, sweep: Sweep):
        """Print the plan, and how many trials have ended."""
        self._sweep = sweep
        self._total = sweep.count_trials()
        trials = itertools.chain(*sweep.rounds())
        self._ended = {trial.directory for trial in trials if trial.status != "open"}
        self._ended_before = len(self._ended)
        self._start = time.monotonic()
        axes = "; ".join(
            f"{axis} {', '.join(format_value(axis, value) for value in values)}"
            for axis, values in sweep.axes.items()
        )
        print_line("sweep", f"{sweep.directory}: {sweep.procedure} of {axes}")
        print_line("", f"the best by validation again with {_seeds(sweep)}")
        print_line("", f"{self._total} trials, {self._ended_before} of them had ended before")

    def update(self, trials: Sequence[Trial]) -> bool:
        """Print a line for each trial of a round that has newly ended; return if any is open."""
        for trial in trials:
            if trial.directory in self._ended or trial.refresh().status == "open":
                continue
            self._ended.add(trial.directory)
            ended = len(self._ended)
            setting = in_words({name: trial.row[name] for name in self._sweep.columns})
            line = f"{ended:>3}/{self._total}  {trial.round:13} {setting}: {_describe(trial.row)}"
            if ended < self._total:
                elapsed = time.monotonic() - self._start
                left = elapsed / (ended - self._ended_before) * (self._total - ended)
                line += f"  ETA {tqdm.format_interval(left)}"
            print(line, flush=True)
        return any(trial.status == "open" for trial in trials)


def _seeds(sweep: Sweep) -> str:
    text = f"seeds {', '.join(map(str, sweep.seeds))}"
    if sweep.split_seeds:
        text += f" and split seeds {', '.join(map(str, sweep.split_seeds))}"
    return text


def _describe(row: Mapping[str, Any]) -> str:
    if row["reason"] is not None:
        return f"FAILED: {row['reason']}"
    scores = f"validation accuracy {row['val_accuracy']:.4f} loss {row['val_loss']:.4f}"
    tested = "" if row["test_accuracy"] is None else f", test accuracy {row['test_accuracy']:.4f}"
    return f"{scores} (epoch {row['best_epoch']}){tested}, {row['train_seconds']:,.0f} s"


def _conclude(sweep: Sweep) -> None:
    """Write table.csv and print the result of the last round; RunError if there is no winner."""
    *_, trials = rounds = list(sweep.rounds())
    rows = [trial.row for trial in itertools.chain(*rounds)]
    for row in rows:
        if row["reason"]:
            row["status"] = f"failed at step {row['step']}"
            print_line("failed", f"{row['run']}: {row['reason']}")
    columns = ["round", *sweep.columns, "status", "best_epoch", "val_loss", "val_accuracy"]
    columns += ["test_loss", "test_accuracy", "reason", "run"]  # no times, which differ
    table = ([row[column] for column in columns] for row in rows)
    write_csv(sweep.directory / "table.csv", columns, table)
    results = [trial.content for trial in trials if trial.status == "finished"]
    if trials[0].round != FINAL or len(results) < len(trials):
        raise RunError(
            f"{len(results)} of the {len(trials)} trials of the {trials[0].round} round finished: "
            f"see {sweep.directory}/table.csv; delete failed.json of a trial to try it again"
        )
    print_line("best", in_words(trials[0].setting))
    seeds = f"(mean and standard deviation over {_seeds(sweep)})"
    print_line("test", f"accuracy {_mean_test_accuracy(results)} {seeds}")
    linear = {  # one for each split: it has no seed
        trial.config.data.split_seed: trial.content["linear_baseline"]
        for trial in trials
        if "linear_baseline" in trial.content
    }
    if sweep.split_seeds and len(linear) == len(sweep.split_seeds):
        print_line("", f"the linear baseline {_mean_test_accuracy(linear.values())}")
    winner = f"{sweep.best_run()}, its best seed by validation"
    print_line("winner", f"{winner}: other modes take --workdir={sweep.directory} for it")
    report = "" if sweep.split_seeds else "; --mode=report makes tables, plots and a page"
    print_line("files", f"{sweep.directory}/table.csv{report}")


def _mean_test_accuracy(results: Iterable[Mapping[str, Any]]) -> str:
    accuracies = [result["test"]["accuracy"] for result in results]
    deviation = f" ± {statistics.stdev(accuracies):.4f}" if len(accuracies) > 1 else ""
    return f"{statistics.mean(accuracies):.4f}{deviation}"
