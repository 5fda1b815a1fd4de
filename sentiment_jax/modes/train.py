"""`--mode=train`: resumes or begins, trains and validates, scores the test set once at the end."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.config.stored import config_to_json
from sentiment_jax.config.validation import validate
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.modes.evaluate import score_split
from sentiment_jax.modes.predict import print_predictions
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.storage import event_files, run_directory
from sentiment_jax.storage.files import checksums, read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import compilation, console, loop
from sentiment_jax.training.checks import check_apart, check_start, resolve
from sentiment_jax.training.distillation import distill
from sentiment_jax.training.experiment import Experiment, prepare_experiment
from sentiment_jax.training.metrics import measure
from sentiment_jax.training.resume import start_run
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import restore_model

VALIDATION = ("loss", "accuracy", "examples", "balanced_accuracy", "perplexity")  # what there is


def train(
    config: ConfigDict,
    workdir: Path,
    *,
    fresh: bool = False,
    allow_changes: bool = False,
    score_test: bool = True,
    prepare: Callable[..., Experiment] = prepare_experiment,
    stop: Stop | None = None,
    tensorboard: bool = False,
) -> dict[str, Any]:
    """Train, or resume where `workdir` stands, score the test set once; return result.json.

    `fresh` removes what an earlier run left there; `allow_changes` resumes although the config
    differs, and env.json records it; `tensorboard` writes event files as well. A sweep's trials
    leave the test set alone, keep the encoded reviews between them with a `prepare` of their own,
    and share one `stop`.

    InputError: bad config, data, weights or run directory. RunError: divergence, damaged
    checkpoints, full disk. Interrupted: a signal came, the state is saved.
    """
    validate(config)
    if tensorboard:
        event_files.find_writer()
    run_directory.prepare_workdir(workdir)
    directory = RunDirectory(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_directory.lock_run(workdir))
        asked = stop or stack.enter_context(Stop())
        _check_batch_sizes(config)
        with processes.in_turn():
            resolved = resolve(config)
            validate(resolved)
            check_apart(resolved, workdir)
            changes = [] if fresh else directory.check_config(resolved, allow_changes)
            if directory.result.exists() and not (fresh or changes):
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
                return read_json(directory.result)
            began = directory.began() and not fresh
            if not began:
                check_start(resolved)
            experiment = prepare(resolved, directory.load_tokenizer() if began else None)
        experiment = distill(experiment, asked)
        _check_reviews(experiment)
        with terminal.progress_bar(None, "checking the memory"):
            compile_seconds = compilation.check_memory(experiment)
        with processes.in_turn():
            if fresh:  # what replaces it was read, and fits as far as the devices tell
                directory.remove()
            _record(experiment, directory, changes)
        with terminal.progress_bar(None, "preparing the model"):
            run, load_report = start_run(experiment, directory, asked)
        stack.callback(run.log.close)
        run.progress.compile_seconds += compile_seconds
        if tensorboard and processes.is_main():
            events = event_files.write_events(directory.tensorboard, run.progress.records)
            run.log.copies.append(stack.enter_context(events))
        console.describe_run(run, load_report)
        while not run.done:
            loop.train_epoch(run)
            loop.validate_epoch(run)
        run.state = None  # its memory is free for the test
        return _conclude(run, score_test)


def dry_run(config: ConfigDict, prepare: Callable[..., Experiment] = prepare_experiment) -> None:
    """Compile the steps of a training and print what they need; no run directory is touched.

    InputError, RunError: as `train` would raise before its first step.
    """
    validate(config)
    _check_batch_sizes(config)
    with processes.in_turn():
        resolved = resolve(config)
        validate(resolved)
        check_start(resolved)
        experiment = prepare(resolved)
    _check_reviews(experiment)
    console.print_steps(compilation.compile_all(experiment))
    compilation.check_memory(experiment)


def _check_batch_sizes(config: ConfigDict) -> None:
    devices.check_batch_size("batch_size", config.batch_size, config.gradient_accumulation)
    devices.check_batch_size("eval_batch_size", config.eval_batch_size)


def _check_reviews(experiment: Experiment) -> None:
    batch_size, reviews = experiment.config.batch_size, len(experiment.encoded["train"])
    if batch_size > reviews:
        raise InputError(f"{batch_size=} is larger than the {reviews} training reviews; use fewer")


def _record(experiment: Experiment, directory: RunDirectory, changes: list[str]) -> None:
    """Write tokenizer.json, env.json and config.json, or check that the data are still the same."""
    now = run_directory.describe_environment()
    if directory.config.exists():
        directory.check_data(experiment.statistics)
        env = read_json(directory.env)
        if changes:
            directory.result.unlink(missing_ok=True)  # it is not this config's
            env["resumed_with_changes"] = [*env.get("resumed_with_changes", []), changes]
        before = env.get("resumed", [env])[-1]
        differing = [name for name in run_directory.DECIDE_BITS if before.get(name) != now[name]]
        if differing:
            was = "; ".join(f"{name} was {before.get(name)}, is {now[name]}" for name in differing)
            terminal.warn(f"not bit-exact from here on: {was}")
        if env["data"].get("pseudo_labels_hash") != experiment.statistics.get("pseudo_labels_hash"):
            terminal.warn("not bit-exact from here on: the teachers' verdicts have changed")
            env["data"]["pseudo_labels_hash"] = experiment.statistics.get("pseudo_labels_hash")
        env["resumed"] = [*env.get("resumed", []), now]
    else:
        env = now | {"data": experiment.statistics}
    if not directory.began() and processes.is_main():
        experiment.tokenizer.save(str(directory.tokenizer))
        env |= checksums(directory.tokenizer)
    write_json(directory.env, env)
    write_json(directory.config, config_to_json(experiment.config))


def _conclude(run: loop.TrainingRun, score_test: bool) -> dict[str, Any]:
    """Score the test set once with the best checkpoint; write and print the result."""
    experiment, directory, progress = run.experiment, run.directory, run.progress
    best = progress.best
    if best is None or best["step"] not in run.checkpoints.steps:
        raise RunError(
            f"the best checkpoint (step {best and best['step']}) is not in "
            f"{directory.checkpoints}; --fresh trains again"
        )
    tested: dict[str, Any] = {}
    measured = {"val": best["metrics"]} if "metrics" in best else {}  # not in old checkpoints
    kept = {"temperature": best["temperature"]} if "temperature" in best else {}  # nor is this
    if score_test:
        with terminal.progress_bar(None, "reading the best checkpoint"):
            trained = restore_model(experiment, run.checkpoints, best["step"])
        test = score_split(experiment, directory, trained.params, "test", run.check_stop)
        directory.check_lock()
        seconds, at = round(test.seconds, 3), {"step": best["step"], "epoch": best["epoch"]}
        run.log.write(**at, split="test", **test.summary(), seconds=seconds, learning_rate=0.0)
        tested = {"test": test.summary(), "test_seconds": seconds}
        labels = experiment.encoded["test"].labels
        measured["test"] = measure(labels, test.probabilities, experiment.classes)
    result = {
        "model": experiment.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in VALIDATION if name in best},
        **kept,
        **tested,
        "train_seconds": round(progress.train_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "train_flops_per_second": round(progress.train_flops / progress.train_seconds),
        "epochs": progress.epochs_done,
        "stopped_early": progress.stopped_early,
        "parameters": run.parameters,
        "seed": experiment.config.seed,
        "data_hash": experiment.statistics["data_hash"],
        "metrics": measured,
        **checksums(directory.metrics),
    }
    if processes.is_main():
        with terminal.progress_bar(None, "drawing the curves"):
            figures.curves({"": read_metrics(directory.metrics)}, directory.curves)
    write_json(directory.result, result)
    if result["val"]:
        console.print_scores("val", result["val"], f"epoch {best['epoch']}, the best")
    else:
        reviews = len(experiment.encoded["train"])
        print(
            f"{'val':8} none: trained on all {reviews:,} reviews for the {best['epoch']} epochs set"
        )
    console.print_speed(experiment.config, result["train_flops_per_second"])
    if score_test:
        console.print_scores("test", result["test"], f"trained {progress.train_seconds:,.0f} s")
        console.print_metrics(measured["test"])
        scored = {name: result[name] for name in ("val", "test") if result[name]}
        console.warn_of_chance(run, scored, measured)
        console.print_advice(progress, experiment.config.optimizer.learning_rate)
        print_predictions([trained], experiment.examples)
        print(f"{'files':8} {directory.path}/result.json, curves.png, predictions.csv")
    return result
