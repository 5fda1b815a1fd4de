"""`--mode=train`: resumes or begins, trains and validates, scores the test set once at the end."""

import contextlib
import importlib.util
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict
from tokenizers import Tokenizer

from sentiment_jax.analysis import figures
from sentiment_jax.config.schema import SELECTED_BY, Config
from sentiment_jax.config.stored import replace_settings
from sentiment_jax.data.corpus import split_pool
from sentiment_jax.data.labels import decide
from sentiment_jax.errors import InputError, RunError
from sentiment_jax.modes.evaluate import score_split
from sentiment_jax.modes.predict import print_predictions, unknown_shares
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage import run_directory
from sentiment_jax.storage.files import checksums, read_json, write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.sweeps.plan import Trial
from sentiment_jax.training import compilation, console, loop
from sentiment_jax.training.advice import advise
from sentiment_jax.training.checks import (
    check_batch_sizes,
    check_reviews,
    check_sources,
    check_start,
    keep_dtype,
    resolve,
)
from sentiment_jax.training.distillation import distill
from sentiment_jax.training.experiment import Experiment, prepare_experiment
from sentiment_jax.training.lineage import source_hashes
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import HALF_DIGIT, fit_temperature, mcnemar, measure
from sentiment_jax.training.resume import initial_state, start_run
from sentiment_jax.training.run import TrainingRun
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import restore_model

VALIDATION = ("loss", "accuracy", "examples", *SELECTED_BY[2:], "perplexity")  # if present


def train(
    recipe: ConfigDict | Config,
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

    Errors are those of `api.train`.

    Args:
      recipe: a validated config.
      workdir: the run directory.
      fresh: remove what an earlier run left there.
      allow_changes: resume although the config differs; env.json records it.
      score_test: False for the trials of a sweep, which leave the test set alone.
      prepare: (config, tokenizer or None) -> Experiment; a sweep's keeps the encoded reviews.
      stop: what asks the run to end, shared by the trials of a sweep.
      tensorboard: write event files as well.
    """
    if tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--tensorboard needs tensorboardX: pip install tensorboardX")
    run_directory.prepare_workdir(workdir)
    directory = RunDirectory(workdir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(run_directory.lock_run(workdir))
        stop = stop or stack.enter_context(Stop())
        with processes.main_process_first():
            fresh = fresh and not directory.began_in_this_job()
            fresh = fresh or directory.removed.exists()  # a kill came before the new config.json
            status, result = ("open", {}) if fresh else directory.outcome()
            known = directory.read_config() if status == "finished" else None
            config = recipe if isinstance(recipe, Config) else resolve(recipe, known)
            if directory.config.exists() and not fresh:
                config = keep_dtype(config, directory.read_config())
            changes = check_start(config, directory, fresh=fresh, allow_changes=allow_changes)
            if status == "finished" and not changes:
                print(f"{workdir} is finished; nothing to do (--fresh starts over)")
                return result
            began = directory.began() and not fresh
            experiment = prepare(config, directory.load_tokenizer() if began else None)
        experiment = distill(experiment, stop)
        check_reviews(config.batch_size, experiment)
        with terminal.progress_bar(None, "checking the memory"):
            compile_seconds = compilation.check_memory(experiment)
        with terminal.progress_bar(None, "preparing the model"):
            initial = None if began else initial_state(experiment)
        with processes.main_process_first():
            if fresh:  # its replacement was read, and is in memory
                directory.remove()
                stop.remedy = "run the same command without --fresh to continue"
            _record(experiment, directory, changes)
        if experiment.folds:
            initial = None  # the folds need its memory
            experiment = _cross_validate(experiment, directory, stop)
        with terminal.progress_bar(None, "preparing the model"):
            run, load_report = start_run(experiment, directory, stop, initial)
        stack.callback(run.log.close)
        run.progress.compile_seconds += compile_seconds
        if tensorboard and processes.is_main():
            run.log.open_events(directory.tensorboard)
        console.describe_run(run, load_report)
        while not run.done:
            loop.train_epoch(run)
            loop.validate_epoch(run)
        run.state = None  # its memory is free for the test
        return _conclude(run, score_test)


def _cross_validate(experiment: Experiment, directory: RunDirectory, stop: Stop) -> Experiment:
    """Train without each fold; return the experiment with the scores on the reviews left out.

    It is to be trained on all reviews for the median of the folds' best epochs.
    """
    from sentiment_jax.analysis.predictions import read_predictions  # late: pandas takes a second

    config = experiment.config
    reviews = experiment.reviews["train"]
    none = reviews.take(np.arange(0))  # a fold scores no test reviews

    def prepare(config: Config, tokenizer: Tokenizer | None = None) -> Experiment:
        corpus = split_pool(reviews, experiment.reviews["test"], config.data)
        corpus = replace(corpus, splits={**corpus.splits, "test": none})
        return prepare_experiment(config, tokenizer, corpus)

    place = {name: i for i, name in enumerate(reviews.ids)}
    probabilities = np.zeros((len(reviews), len(experiment.classes)), np.float32)
    folds = []
    for number in range(1, config.data.folds + 1):
        fold = RunDirectory(directory.folds / str(number))
        without = replace_settings(config, {"data.fold": number})
        run_directory.prepare_workdir(fold.path)
        log = (fold.path / "log.txt").open("a", encoding="utf-8")
        with log, contextlib.redirect_stdout(log):
            result = train(without, fold.path, score_test=False, prepare=prepare, stop=stop)
        predictions = read_predictions([Trial("fold", fold.path, without)], "val")
        rows = [place[name] for name in predictions.ids]
        probabilities[rows] = predictions.probabilities[0]
        if processes.is_main():
            shutil.rmtree(fold.checkpoints, ignore_errors=True)  # the size of five models
        folds.append({**result["val"], "best_epoch": result["best_epoch"]})
        epoch = f"epoch {result['best_epoch']}, the best"
        console.print_scores(f"fold {number}/{config.data.folds}", result["val"], epoch)
    order = experiment.statistics["order_hash"]["train"]
    directory.write_predictions("val", reviews, probabilities, order, config)
    measured = measure(reviews.labels, probabilities, experiment.classes)
    weights = [fold["examples"] for fold in folds]
    validated = {name: measured[name] for name in folds[0] if name in measured}
    for name in ("loss", "accuracy"):
        validated[name] = float(np.average([fold[name] for fold in folds], weights=weights))
    validated |= {"examples": len(reviews), "metrics": measured, "folds": folds}
    read = np.maximum(probabilities, HALF_DIGIT)
    validated["temperature"] = fit_temperature(read, reviews.labels)
    epochs = statistics.median_low(fold["best_epoch"] for fold in folds)
    return replace(experiment, epochs=epochs, validated=validated)


def dry_run(recipe: ConfigDict, prepare: Callable[..., Experiment] = prepare_experiment) -> None:
    """Compile the steps of a training and print what they need, after the checks of `train`."""
    with processes.main_process_first():
        config = resolve(recipe)
        check_batch_sizes(config)
        check_sources(config)
        experiment = prepare(config)
    check_reviews(config.batch_size, experiment)
    console.print_steps(experiment)
    compilation.check_memory(experiment)


def _record(experiment: Experiment, directory: RunDirectory, changes: list[str]) -> None:
    """Write tokenizer.json, env.json and config.json; on resuming, compare the data."""
    now = run_directory.describe_environment()
    env = now | {"data": experiment.statistics}
    if directory.config.exists():
        env = _record_resumption(directory, changes, now, experiment.statistics)
    if not directory.began() and processes.is_main():
        experiment.tokenizer.save(str(directory.tokenizer))
        env |= checksums(directory.tokenizer)
        env |= {"sources": source_hashes(experiment.config)}
    write_json(directory.env, env)
    directory.write_config(experiment.config)


def _record_resumption(
    directory: RunDirectory, changes: list[str], now: dict[str, Any], statistics: dict[str, Any]
) -> dict[str, Any]:
    """Return env.json with one more start, and warn of what makes the run no longer bit-exact."""
    directory.check_data(statistics)
    env = read_json(directory.env)
    if changes:
        directory.result.unlink(missing_ok=True)  # it is not this config's
        env["resumed_with_changes"] = [*env.get("resumed_with_changes", []), changes]
    before = env.get("resumed", [env])[-1]
    differing = [
        f"{name} was {before.get(name)}, is {now[name]}"
        for name in run_directory.DECIDE_BITS
        if before.get(name) != now[name]
    ]
    if differing:
        terminal.warn(f"not bit-exact from here on: {'; '.join(differing)}")
    if env["data"].get("pseudo_labels_hash") != statistics.get("pseudo_labels_hash"):
        terminal.warn("not bit-exact from here on: the teachers' predictions have changed")
        env["data"]["pseudo_labels_hash"] = statistics.get("pseudo_labels_hash")
    env["resumed"] = [*env.get("resumed", []), now]
    return env


def _conclude(run: TrainingRun, score_test: bool) -> dict[str, Any]:
    """Score the test set once with the best checkpoint; write and print the result."""
    experiment = run.experiment
    directory = run.directory
    progress = run.progress
    best = progress.best
    if best is None or best["step"] not in run.checkpoints.steps:
        raise RunError(
            f"the best checkpoint (step {best and best['step']}) is not in "
            f"{directory.checkpoints}; --fresh trains again"
        )
    tested: dict[str, Any] = {}
    measured = {"val": best["metrics"]} if "metrics" in best else {}  # not of a pre-training
    if score_test:
        with terminal.progress_bar(None, "reading the best checkpoint"):
            trained = restore_model(experiment, run.checkpoints, best["step"])
        test = score_split(experiment, directory, trained.params, "test", run.check_stop)
        seconds = round(test.seconds, 3)
        run.log.write(
            step=best["step"],
            epoch=best["epoch"],
            split="test",
            **test.summary(),
            seconds=seconds,
            learning_rate=0.0,
        )
        tested = {"test": test.summary(), "test_seconds": seconds}
        labels = experiment.encoded["test"].labels
        measured["test"] = measure(labels, test.probabilities, experiment.classes)
    folds = map(read_json, directory.folds.glob("*/result.json"))
    train_seconds = progress.train_seconds + sum(fold["train_seconds"] for fold in folds)
    result: dict[str, Any] = {
        "model": experiment.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in VALIDATION if name in best},
        **{name: best[name] for name in ("temperature", "folds") if name in best},
        **tested,
        "train_seconds": round(train_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "epochs": progress.epochs_done,
        "stopped_early": progress.stopped_early,
        "parameters": run.parameters,
        "seed": experiment.config.seed,
        "data_hash": experiment.statistics["data_hash"],
        "metrics": measured,
        **checksums(directory.metrics),
    }
    records = read_metrics(directory.metrics)
    if processes.is_main():
        with terminal.progress_bar(None, "drawing the curves"):
            by = experiment.config.select_by
            figures.curves({"": records}, directory.curves, select_by=by)
    write_json(directory.result, result)  # before the baseline: whatever happens, it is finished
    if score_test and experiment.config.linear_baseline and processes.is_main():
        result |= _compare(experiment, decide(test.probabilities))
        write_json(directory.result, result)
    if "folds" in result:
        deviation = statistics.stdev(fold["accuracy"] for fold in result["folds"])
        of = f"{len(result['folds'])} folds ± {deviation:.4f}; then {best['epoch']} epochs on all"
        console.print_scores("val", result["val"], of)
    elif result["val"]:
        console.print_scores("val", result["val"], f"epoch {best['epoch']}, the best")
    else:
        reviews = len(experiment.encoded["train"])
        print(
            f"{'val':8} none: trained on all {reviews:,} reviews for the {best['epoch']} epochs set"
        )
        if experiment.config.early_stopping_patience:
            print(f"{'':8} early_stopping_patience did nothing: it needs reviews held out")
    if score_test:
        console.print_scores("test", result["test"], f"trained {train_seconds:,.0f} s")
        console.print_metrics(measured["test"])
        console.print_linear_baseline(result)
        console.warn_of_chance(run, result, measured)
        _print_advice(experiment, result, records)
        print_predictions([trained], experiment.examples)
        print(f"{'files':8} {directory.path}/result.json, curves.png, predictions.csv")
    return result


def _compare(experiment: Experiment, predicted: Int[np.ndarray, " reviews"]) -> dict[str, Any]:
    """Return the baseline's entry of result.json: its scores, and McNemar's p of the test."""
    try:
        with terminal.progress_bar(None, "fitting the linear baseline"):
            baseline = linear_baseline(experiment.reviews, experiment.folds)
    except (ValueError, MemoryError, OSError) as error:
        terminal.warn(f"no linear baseline: {error}")
        return {}
    if not baseline:
        return {}
    labels = experiment.encoded["test"].labels
    correct = np.array(baseline.pop("predicted")["test"]) == labels
    _, _, p = mcnemar(predicted == labels, correct)
    return {"linear_baseline": {**baseline, "mcnemar_p": p}}


def _print_advice(
    experiment: Experiment, result: dict[str, Any], records: Sequence[Mapping[str, Any]]
) -> None:
    """Print what validation suggests, if reviews were held out for it."""
    if result["val"]:
        encoded = experiment.encoded["train" if "folds" in result else "val"]
        shares = unknown_shares(experiment.tokenizer, encoded)
        for sentence in advise(experiment.config, result, records, float(shares.mean())):
            print(f"{'advice':8} {sentence}")
