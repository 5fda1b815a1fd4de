"""A training run is a list of stages, each a function of the run: `run_stages` goes through it.

modes/train.py has the lists of a run, of a sweep's trial and of a fold.
"""

import contextlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
from ml_collections import ConfigDict

from sentiment_jax.config.schema import SELECTED_BY, Config
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.data.tokenization import load_run_tokenizer
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.checkpoints import steps_in
from sentiment_jax.storage.files import checksums, read_json, write_array, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import compilation, console, loop, probe
from sentiment_jax.training.checks import Options, Start, check_finished_data, check_start
from sentiment_jax.training.distillation import distill
from sentiment_jax.training.experiment import Task
from sentiment_jax.training.lineage import check_same_sources
from sentiment_jax.training.metrics import measure
from sentiment_jax.training.resume import initial_params, restore_or_begin
from sentiment_jax.training.run import Stage, TrainingRun
from sentiment_jax.training.scoring import ReviewScores, score_reviews
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.several_labels import task_of
from sentiment_jax.training.trained_model import restore_model

VALIDATION = ("loss", "accuracy", "examples", *SELECTED_BY[2:], "perplexity")  # if present


def run_stages(
    recipe: ConfigDict | Config,
    workdir: Path,
    stages: Sequence[Stage],
    *,
    task: Task | None = None,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Go through the stages of a run, or of the one that `workdir` holds; return result.json.

    Args:
      recipe: a validated config; a Config is resolved already.
      workdir: the run directory.
      stages: what is done, in this order.
      task: pre-training; None for learning from labels, as the config says.
      **options: those of checks.Options.
    """
    task = task or task_of(recipe)
    if options.get("tensorboard") and importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--tensorboard needs tensorboardX: pip install tensorboardX")
    nested = options.get("nested", False)
    run_directory.prepare_workdir(workdir, nested=nested)
    directory = RunDirectory(workdir)
    with run_directory.lock_run(workdir), contextlib.ExitStack() as stack:
        stop = options.get("stop") or stack.enter_context(Stop(options.get("stop_after")))
        with processes.main_process_first():
            start, config, sources = check_start(recipe, directory, task, options)
            if start is Start.FINISHED and not nested:
                check_finished_data(config, directory)
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
        if start is Start.FINISHED:
            return directory.outcome()[1]
        if nested:
            log = stack.enter_context(directory.log.open("a", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(log))
        run = TrainingRun(
            task=task,
            config=config,
            directory=directory,
            start=start,
            sources=sources,
            stop=stop,
            options=options,
            cleanup=stack,
        )
        for stage in stages:
            stage(run)
        return run.result


def prepare(run: TrainingRun) -> None:
    """Read and encode the data, and build the network."""
    make = run.options.get("prepare") or run.task.prepare
    with processes.main_process_first():
        tokenizer = load_run_tokenizer(run.directory) if run.start is Start.RESUMED else None
        run.experiment = make(run.config, tokenizer)
        run.config = run.experiment.config  # which names the classes now


def label(run: TrainingRun) -> None:
    """Let the teachers label the unlabeled text, if there are any."""
    run.experiment = distill(run.experiment, run.stop)


def check_memory(run: TrainingRun) -> None:
    """Refuse steps that the devices have no memory for."""
    with terminal.progress_bar(None, "checking the memory"):
        run.compile_seconds = compilation.check_memory(run.experiment)


def record(run: TrainingRun) -> None:
    """Make the first parameters, and record the run: from now on it is in its directory.

    An earlier run is removed only now, when nothing can fail on reading any more.
    """
    directory = run.directory
    statistics = run.experiment.statistics
    resumed = run.start is Start.RESUMED
    if not (resumed and steps_in(directory.checkpoints)):
        with terminal.progress_bar(None, "preparing the model"):
            params, run.load_report = initial_params(run.experiment)
            run.params = jax.device_get(params)  # a cross-validation needs the devices' memory
    with processes.main_process_first():
        if run.sources is not None:  # all of them are read
            check_same_sources(run.config, directory, run.sources)
        if run.start is Start.BEGUN_ANEW:
            directory.remove()
            run.stop.remedy = "run the same command without --fresh to continue"
        now = run_directory.describe_environment()
        env = now | {"data": statistics}
        if directory.config.exists():
            env = _record_resumption(directory, now, statistics)
        if not resumed and processes.is_main():
            run.experiment.tokenizer.save(str(directory.tokenizer))
            env |= checksums(directory.tokenizer) | {"sources": run.sources}
        for path, array in run.task.arrays(directory, run.experiment).items():
            env |= write_array(path, array)
        write_json(directory.env, env)
        directory.write_config(run.config)


def _record_resumption(
    directory: RunDirectory, now: dict[str, Any], statistics: dict[str, Any]
) -> dict[str, Any]:
    """Return env.json with one more start, and warn of what makes the run no longer bit-exact."""
    directory.check_data(statistics)
    env = read_json(directory.env)
    before = env.get("resumed", [env])[-1]
    if differing := [
        f"{name} was {before[name]}, is {now[name]}"
        for name in run_directory.DECIDE_BITS
        if before[name] != now[name]
    ]:
        terminal.warn(f"not bit-exact from here on: {'; '.join(differing)}")
    if env["data"].get("pseudo_labels_hash") != statistics.get("pseudo_labels_hash"):
        terminal.warn("not bit-exact from here on: the teachers' predictions have changed")
        env["data"]["pseudo_labels_hash"] = statistics.get("pseudo_labels_hash")
    env["resumed"] = [*env.get("resumed", []), now]
    return env


def fit(run: TrainingRun) -> None:
    """Take the steps that are left, each epoch followed by its validation."""
    with terminal.progress_bar(None, "preparing the model"):
        restore_or_begin(run)
    run.progress.compile_seconds += run.compile_seconds
    if run.options.get("tensorboard") and processes.is_main():
        run.log.open_events(run.directory.tensorboard, run.cleanup)
    console.describe_run(run)
    probe.start_from_probe(run)
    train_epoch = loop.train_epoch if run.config.optimizer.takes_steps else probe.fit_classifier
    while run.progress.epochs_done < run.epochs and not run.progress.stopped_early:
        train_epoch(run)
        loop.validate_epoch(run)
    run.state = None  # its memory is free for the test
    best = run.progress.best
    if best is None or best["step"] not in run.checkpoints.steps:
        raise RunError(
            f"the best checkpoint (step {best and best['step']}) is not in "
            f"{run.directory.checkpoints}; --fresh trains again"
        )


def _score(run: TrainingRun, split: str) -> ReviewScores:
    """Score a split with the best checkpoint, and write the predictions."""
    experiment = run.experiment
    if run.trained is None:
        with terminal.progress_bar(None, "reading the best checkpoint"):
            run.trained = restore_model(experiment, run.checkpoints, run.best)
    trained = run.trained
    encoded = experiment.encoded[split]
    scored = score_reviews(trained, trained.params, encoded, split, stop=run.check_stop)
    reviews = experiment.reviews[split]
    write_predictions(
        run.directory, split, reviews, scored.probabilities, run.config, trained.thresholds
    )
    return scored


def test(run: TrainingRun) -> None:
    """Score the test set once, with the best checkpoint."""
    run.tested = _score(run, "test")
    run.log.write(
        step=run.best["step"],
        epoch=run.best["epoch"],
        split="test",
        **run.tested.scores,
        seconds=round(run.tested.seconds, 3),
        learning_rate=0.0,
    )


def describe(run: TrainingRun) -> None:
    """Gather the content of result.json, and write the validation predictions if they are lost."""
    path = run.directory.predictions["val"]
    env = read_json(run.directory.env)
    intact = path.is_file() and checksums(path).items() <= env.items()
    if f"{path.stem}_sha256" in env and not intact:  # lost since the best epoch
        _score(run, "val")
    run.result = describe_result(run)


def finish(run: TrainingRun) -> None:
    """Write result.json: from now on the run is finished."""
    write_json(run.directory.result, run.result)


def describe_result(run: TrainingRun) -> dict[str, Any]:
    """Return the content of result.json, except the linear baseline, which may fail."""
    experiment = run.experiment
    progress = run.progress
    best = run.best
    measured = {"val": best["metrics"]} if "metrics" in best else {}  # of labeled reviews
    tested: dict[str, Any] = {}
    if run.tested and run.trained:
        tested = {"test": run.tested.scores, "test_seconds": round(run.tested.seconds, 3)}
        labels = experiment.encoded["test"].labels
        thresholds = run.trained.thresholds
        measured["test"] = measure(labels, run.tested.probabilities, experiment.classes, thresholds)
    return {
        "model": run.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in VALIDATION if name in best},
        **{name: best[name] for name in ("temperature", "thresholds", "folds") if name in best},
        **tested,
        "train_seconds": round(progress.train_seconds + run.fold_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "epochs": progress.epochs_done,
        "stopped_early": progress.stopped_early,
        "parameters": run.parameters,
        "seed": run.config.seed,
        "data_hash": experiment.statistics["data_hash"],
        "metrics": measured,
        **checksums(run.directory.metrics),
    }
