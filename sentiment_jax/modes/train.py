"""`--mode=train`: resumes or begins, trains and validates, scores the test set once at the end."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from ml_collections import ConfigDict

from sentiment_jax.analysis import figures
from sentiment_jax.config.schema import Config
from sentiment_jax.data.encoding import unknown_shares
from sentiment_jax.data.labels import decide
from sentiment_jax.modes.predict import print_predictions
from sentiment_jax.runtime import processes, terminal
from sentiment_jax.storage.files import write_json
from sentiment_jax.storage.metrics_log import read_metrics
from sentiment_jax.training import checks, compilation, console, cross_validation, stages
from sentiment_jax.training.advice import advise
from sentiment_jax.training.cross_validation import describe_folds, draw_folds
from sentiment_jax.training.experiment import Task
from sentiment_jax.training.linear_baseline import linear_baseline
from sentiment_jax.training.metrics import mcnemar
from sentiment_jax.training.run import TrainingRun
from sentiment_jax.training.stages import Options, Stage, run_stages
from sentiment_jax.training.tasks.classification import CLASSIFICATION


def cross_validate(run: TrainingRun) -> None:
    """Train without each fold, if there are any."""
    cross_validation.cross_validate(run, FOLD)


def draw_curves(run: TrainingRun) -> None:
    """Draw loss and accuracy over the epochs."""
    if processes.is_main():
        records = read_metrics(run.directory.metrics)
        with terminal.progress_bar(None, "drawing the curves"):
            ranking = run.task.make_ranking(run.config)
            figures.curves({"": records}, run.directory.curves, ranking=ranking)


def print_validation(run: TrainingRun) -> None:
    """Print the validation of the best epoch."""
    result = run.result
    scores = result["val"]
    epoch = result["best_epoch"]
    if scores:
        remark = describe_folds(result) or f"epoch {epoch}, the best"
        more = run.task.describe_scores(run.config, scores)
        console.print_scores("val", scores, remark, more=more, unit=run.task.unit)
        return
    reviews = len(run.experiment.encoded["train"])
    print(f"{'val':8} none: trained on all {reviews:,} reviews for the {epoch} epochs set")
    if run.config.early_stopping_patience:
        print(f"{'':8} early_stopping_patience did nothing: it needs reviews held out")


def compare(run: TrainingRun) -> None:
    """Fit the linear baseline, and add it to result.json."""
    if not (run.config.linear_baseline and processes.is_main()):
        return
    experiment = run.experiment
    try:
        with terminal.progress_bar(None, "fitting the linear baseline"):
            baseline = linear_baseline(experiment.reviews, draw_folds(experiment))
    except (ValueError, MemoryError, OSError) as error:
        terminal.warn(f"no linear baseline: {error}")
        return
    if baseline and run.tested:
        labels = experiment.encoded["test"].labels
        theirs = np.array(baseline.pop("predicted")["test"]) == labels
        _, _, p = mcnemar(decide(run.tested.probabilities) == labels, theirs)
        run.result["linear_baseline"] = {**baseline, "mcnemar_p": p}
        write_json(run.directory.result, run.result)


def print_test(run: TrainingRun) -> None:
    """Print the test score, how far to trust it, and what the linear baseline has."""
    result = run.result
    console.print_scores("test", result["test"], f"trained {result['train_seconds']:,.0f} s")
    console.print_metrics(result["metrics"]["test"])
    console.print_linear_baseline(result)
    console.warn_of_chance(run)


def print_advice(run: TrainingRun) -> None:
    """Print what the validation suggests, if there was one."""
    if run.result["val"]:
        encoded = run.experiment.encoded["train" if run.cross_validated else "val"]
        unknown = float(unknown_shares(run.experiment.tokenizer, encoded).mean())
        records = read_metrics(run.directory.metrics)
        for sentence in advise(run.config, run.result, records, unknown):
            print(f"{'advice':8} {sentence}")


def print_examples(run: TrainingRun) -> None:
    """Classify a few texts, and name the files."""
    if run.trained:
        print_predictions([run.trained], run.experiment.examples)
    print(f"{'files':8} {run.directory.path}/result.json, curves.png, predictions.csv")


FIT = (
    stages.prepare,
    stages.label,
    stages.check,
    cross_validation.check_folds,
    stages.begin,
    cross_validate,
    stages.fit,
)
RUN = (
    *FIT,
    stages.test,
    draw_curves,
    stages.finish,
    compare,
    print_validation,
    print_test,
    print_advice,
    print_examples,
)
TRIAL = (*FIT, draw_curves, stages.finish, print_validation)  # leaves the test set alone
FOLD = tuple(of for of in TRIAL if of not in (cross_validation.check_folds, cross_validate))


def train(
    recipe: ConfigDict | Config,
    workdir: Path,
    *,
    stages: Sequence[Stage] = RUN,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Train, or resume where `workdir` stands, score the test set once; return result.json.

    Arguments are those of `stages.run_stages`, errors those of `api.train`.
    """
    return run_stages(recipe, workdir, stages, **options)


def dry_run(recipe: ConfigDict, task: Task = CLASSIFICATION) -> None:
    """Compile the steps of a training and print what they need, after the checks of `train`."""
    with processes.main_process_first():
        config = checks.resolve(recipe, task)
        checks.check_batch_sizes(config)
        checks.check_sources(config)
        experiment = task.prepare(config)
    checks.check_reviews(config.batch_size, len(experiment.encoded["train"]))
    console.print_steps(experiment)
    compilation.check_memory(experiment)
