"""`--mode=train`: resumes or begins, trains and validates, scores the test set once at the end."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.config.schema import Config
from sentiment_jax.data.encoding import unknown_shares
from sentiment_jax.data.texts import Split, stratified_sample
from sentiment_jax.modes.predict import describe_unknown, print_texts
from sentiment_jax.runtime import devices, processes, terminal
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.metrics_log import check_tensorboard, read_metrics
from sentiment_jax.training import checks, compilation, console, results
from sentiment_jax.training.advice import advise
from sentiment_jax.training.cross_validation import CrossValidated, cross_validate, draw_folds
from sentiment_jax.training.distillation import label_with_teachers
from sentiment_jax.training.experiment import Experiment, Task
from sentiment_jax.training.fit import AfterEpoch, fit
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import is_correct, mcnemar
from sentiment_jax.training.run import Run, begin, open_run, prepare
from sentiment_jax.training.scoring import TextScores
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.tasks.multi_label import task_of
from sentiment_jax.training.trained_model import TrainedModel

EXAMPLES = 4  # test texts whose predictions are printed


def train(
    recipe: ConfigDict | Config,
    workdir: Path,
    *,
    fresh: bool = False,
    stop: Stop | None = None,
    stop_after: float | None = None,
    tested: bool = True,
    tensorboard: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> dict[str, Any]:
    """Train, or resume where `workdir` stands, score the test set once; return result.json.

    Arguments are those of `open_run`, `complete` and `fit`, errors those of `api.train`.
    """
    if tensorboard:
        check_tensorboard()
    with open_run(
        recipe, workdir, task_of(recipe), fresh=fresh, stop=stop, stop_after=stop_after
    ) as run:
        if (result := run.finished) is not None:
            return result
        return complete(
            run, prepare(run), tested=tested, tensorboard=tensorboard, after_epoch=after_epoch
        )


def complete(
    run: Run,
    experiment: Experiment,
    *,
    tested: bool = True,
    tensorboard: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> dict[str, Any]:
    """Train on these data to the end of a run; unless it is `tested`, leave the test set alone."""
    folds = draw_folds(experiment, experiment.config.batch_size)
    experiment = label_with_teachers(experiment, run.stop)
    with terminal.progress_bar(None, "checking the memory"):
        compile_seconds = compilation.check_memory(experiment)
    validated = CrossValidated()
    if folds:
        begin(run, experiment)
        validated = cross_validate(run, experiment, folds)
    fitted = fit(
        run,
        experiment.without_test(),
        cross_validated=validated.entries,
        epochs=validated.epochs,
        compile_seconds=compile_seconds,
        tensorboard=tensorboard,
        after_epoch=after_epoch,
    )
    results.restore_predictions(run.directory, experiment, fitted)
    result = results.describe_result(experiment, fitted, validated.seconds)
    if not tested:
        draw_curves(run, experiment)
        result = results.finish(run.directory, result)
        results.print_validation(experiment, result)
        return result
    model, scored = results.score_test(run.directory, experiment, fitted)
    draw_curves(run, experiment)
    result = results.add_test(result, experiment, model, scored)
    fitted.check_stop()
    result |= score_baseline(experiment, model, scored, folds)
    result["advice"] = advise_user(run, experiment, result)
    result = results.finish(run.directory, result)
    results.print_validation(experiment, result)
    print_summary(run, experiment, model, scored, result)
    return result


def draw_curves(run: Run, experiment: Experiment) -> None:
    """Draw loss and accuracy over the epochs."""
    if processes.is_main():
        records = read_metrics(run.directory.metrics)
        with terminal.progress_bar(None, "drawing the curves"):
            ranking = run.task.make_ranking(experiment.config)
            figures.curves({"": records}, run.directory.curves, ranking=ranking)


def score_baseline(
    experiment: Experiment, model: TrainedModel, tested: TextScores, folds: Sequence[Split]
) -> dict[str, Any]:
    """Return the linear baseline's entry of result.json, if there can be one."""
    if not (experiment.config.linear_baseline and processes.is_main()):
        return {}
    try:
        with terminal.progress_bar(None, "fitting the linear baseline"):
            baseline = linear_baseline(experiment.texts, experiment.task.fit, folds)
    except (ValueError, MemoryError, OSError) as error:
        terminal.warn(f"no linear baseline: {error}")
        return {}
    if not baseline:
        return {}
    labels = experiment.encoded["test"].labels
    theirs = np.array(baseline.pop("correct")["test"])
    own = experiment.kind.decide(tested.probabilities, model.thresholds)
    _, _, p = mcnemar(is_correct(labels, own), theirs)
    return {"linear_baseline": {**baseline, "mcnemar_p": p}}


def advise_user(run: Run, experiment: Experiment, result: Mapping[str, Any]) -> list[str]:
    """Return what to try next, by the scores on validation."""
    if not result["val"]:
        return []
    encoded = experiment.encoded["train" if "folds" in result else "val"]
    return advise(
        experiment.config,
        result,
        read_metrics(run.directory.metrics),
        truncated=experiment.statistics["truncated"]["train"],
        unknown=float(unknown_shares(experiment.tokenizer, encoded).mean()),
    )


def print_summary(
    run: Run,
    experiment: Experiment,
    model: TrainedModel,
    tested: TextScores,
    result: dict[str, Any],
) -> None:
    """Print the test scores, how far to trust them, what to try next, and a few predictions."""
    console.print_scores("test", result["test"], f"trained {result['train_seconds']:,.0f} s")
    console.print_metrics(experiment.kind, result["metrics"]["test"])
    console.print_linear_baseline(result)
    console.warn_of_chance(experiment.config, run.directory, result)
    for sentence in result["advice"]:
        print_line("advice", sentence)
    test = experiment.texts["test"]
    sample = stratified_sample(test, count=EXAMPLES, seed=experiment.config.data.split_seed)
    rows = np.flatnonzero(np.isin(test.hashes, sample.hashes))[:EXAMPLES]
    examples = test.take(rows)
    predictions = model.kind.describe(
        examples.classes, tested.probabilities[rows], model.thresholds
    )
    shares = unknown_shares(model.tokenizer, model.encode(examples))
    print_texts(examples.texts, predictions, [*map(describe_unknown, shares)])
    print_line("files", f"{run.directory.path}/result.json, curves.png, predictions.csv")


def dry_run(recipe: ConfigDict, task: Task | None = None) -> None:
    """Compile the steps of a training and print what they need, after the checks of `train`."""
    task = task or task_of(recipe)
    with processes.main_process_first():
        config = checks.resolve(recipe, pretrains=task.pretrains)
        checks.check_batch_sizes(config)
        checks.check_sources(config)
        experiment = task.prepare(config)
    draw_folds(experiment, config.batch_size)
    print_steps(experiment)
    compilation.check_memory(experiment)


def print_steps(experiment: Experiment) -> None:
    """Compile every step that training and its evaluations may take; print what each needs."""
    limit = devices.memory_limit()
    each = f", {compilation.mebibytes(limit)} each" if limit else ""
    print_line("device", f"{console.describe_devices()}{each}")
    line = "{:8} {:10} {:>16} {:>14} {:>11}".format
    print(line("step", "", "rows x tokens", "peak memory", "compiled in"))
    for mode in compilation.modes_of(experiment.config):
        for length in compilation.padded_lengths(experiment, mode):
            batch = compilation.batch_like(experiment, mode, length)
            rows, tokens = batch["token_ids"].shape[:2]
            start = time.perf_counter()
            peak = compilation.mebibytes(compilation.compile_step(experiment, mode, length))
            seconds = time.perf_counter() - start
            print(line("", mode, f"{rows} x {tokens}", peak, f"{seconds:.1f} s"), flush=True)
