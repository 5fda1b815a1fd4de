"""`--mode=train`: resumes or begins, trains and validates, scores the test set once at the end."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.config.schema import Config
from sentiment_jax.data.encoding import unknown_shares
from sentiment_jax.data.labels import decide
from sentiment_jax.data.reviews import Reviews, Split, stratified_sample
from sentiment_jax.modes.predict import describe_unknown, format_predictions, print_texts
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training import checks, compilation, console, cross_validation, stages
from sentiment_jax.training.advice import advise
from sentiment_jax.training.cross_validation import describe_folds, draw_folds
from sentiment_jax.training.experiment import Task
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import is_correct, mcnemar
from sentiment_jax.training.run import TrainingRun
from sentiment_jax.training.tasks.several_labels import task_of
from sentiment_jax.training.trained_model import thresholds_of

EXAMPLES = 4  # test reviews whose predictions are printed


def draw_curves(run: TrainingRun) -> None:
    """Draw loss and accuracy over the epochs."""
    if processes.is_main():
        records = read_metrics(run.directory.metrics)
        with terminal.progress_bar(None, "drawing the curves"):
            ranking = run.task.make_ranking(run.config)
            figures.curves({"": records}, run.directory.curves, ranking=ranking)


def fit_baseline(splits: Mapping[str, Reviews], folds: Sequence[Split]) -> dict[str, Any]:
    """Return the linear baseline; {}, and a warning, if it can't be fitted."""
    try:
        with terminal.progress_bar(None, "fitting the linear baseline"):
            return linear_baseline(splits, folds)
    except (ValueError, MemoryError, OSError) as error:
        terminal.warn(f"no linear baseline: {error}")
        return {}


def compare(run: TrainingRun) -> None:
    """Fit the linear baseline, and add it to the result."""
    if not (run.config.linear_baseline and processes.is_main()):
        return
    experiment = run.experiment
    folds = draw_folds(experiment.config.data, experiment.reviews)
    baseline = fit_baseline(experiment.reviews, folds)
    if baseline and run.tested:
        labels = experiment.encoded["test"].labels
        theirs = np.array(baseline.pop("predicted")["test"])
        thresholds = thresholds_of(run.config, run.best)
        own = decide(run.tested.probabilities, thresholds, several=labels.ndim == 2)
        _, _, p = mcnemar(is_correct(labels, own), is_correct(labels, theirs))
        run.result["linear_baseline"] = {**baseline, "mcnemar_p": p}


def advise_user(run: TrainingRun) -> None:
    """Add to the result what to try next, by the scores on validation."""
    run.result["advice"] = []
    if run.result["val"]:
        encoded = run.experiment.encoded["train" if run.cross_validated else "val"]
        run.result["advice"] = advise(
            run.config,
            run.result,
            read_metrics(run.directory.metrics),
            truncated=run.experiment.statistics["truncated"]["train"],
            unknown=float(unknown_shares(run.experiment.tokenizer, encoded).mean()),
        )


def report(run: TrainingRun) -> None:
    """Print the scores, how far to trust them, what to try next, and a few predictions."""
    result = run.result
    if scores := result["val"]:
        which = "last" if run.config.select_by == "last" else "best"
        remark = describe_folds(result) or f"epoch {result['best_epoch']}, the {which}"
        more = run.task.describe_scores(run.config, scores)
        console.print_scores("val", scores, remark, more=more, unit=run.task.unit)
    else:
        reviews = len(run.experiment.encoded["train"])
        epochs = result["epochs"]
        print(f"{'val':8} none: trained on all {reviews:,} reviews for the {epochs} epochs set")
        if run.config.early_stopping_patience:
            print(f"{'':8} early_stopping_patience did nothing: it needs reviews held out")
    if not (run.tested and run.trained):
        return
    console.print_scores("test", result["test"], f"trained {result['train_seconds']:,.0f} s")
    console.print_metrics(result["metrics"]["test"])
    console.print_linear_baseline(result)
    console.warn_of_chance(run)
    for sentence in result["advice"]:
        print(f"{'advice':8} {sentence}")
    test = run.experiment.reviews["test"]
    sample = stratified_sample(test, count=EXAMPLES, seed=run.config.data.split_seed)
    rows = np.flatnonzero(np.isin(test.hashes, sample.hashes))[:EXAMPLES]
    examples = test.take(rows)
    probabilities = run.tested.probabilities[rows]
    predictions = format_predictions(
        examples.classes, probabilities, run.trained.thresholds, several=test.labels.ndim == 2
    )
    shares = unknown_shares(run.trained.tokenizer, run.trained.encode(examples))
    print_texts(examples.texts, predictions, [*map(describe_unknown, shares)])
    print(f"{'files':8} {run.directory.path}/result.json, curves.png, predictions.csv")


FOLD = (
    stages.prepare,
    stages.label,
    stages.check_memory,
    stages.record,
    stages.fit,
    draw_curves,
    stages.describe,
    stages.finish,
    report,
)
FIT = (
    stages.prepare,
    lambda run: cross_validation.check_reviews(run.experiment, run.config.batch_size),
    stages.label,
    stages.check_memory,
    stages.record,
    functools.partial(cross_validation.cross_validate, stages=FOLD),
    stages.fit,
)
TRIAL = (*FIT, draw_curves, stages.describe, stages.finish, report)  # leaves the test set alone
RUN = (
    *FIT,
    stages.test,
    draw_curves,
    stages.describe,
    compare,
    advise_user,
    stages.finish,  # last: a run with a result is finished
    report,
)


def train(
    recipe: ConfigDict | Config, workdir: Path, **options: Unpack[checks.Options]
) -> dict[str, Any]:
    """Train, or resume where `workdir` stands, score the test set once; return result.json.

    Options are those of `stages.run_stages`, errors those of `api.train`.
    """
    return stages.run_stages(recipe, workdir, RUN, **options)


def dry_run(recipe: ConfigDict, task: Task | None = None) -> None:
    """Compile the steps of a training and print what they need, after the checks of `train`."""
    task = task or task_of(recipe)
    with processes.main_process_first():
        config = checks.resolve(recipe, task)
        checks.check_batch_sizes(config)
        checks.check_sources(config)
        experiment = task.prepare(config)
    cross_validation.check_reviews(experiment, config.batch_size)
    console.print_steps(experiment)
    compilation.check_memory(experiment)
