"""What a training leaves behind: the test scores, result.json, and the lines that are printed."""

import statistics
from collections.abc import Mapping
from typing import Any

from sentiment_jax.config.schema import SELECTED_BY
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.runtime import terminal
from sentiment_jax.runtime.terminal import print_line
from sentiment_jax.storage.files import checksums, read_json, write_json
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import console
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.metrics import measure
from sentiment_jax.training.progress import Fitted
from sentiment_jax.training.scoring import TextScores, score_texts
from sentiment_jax.training.trained_model import TrainedModel, restore_model

VALIDATION = ("loss", "accuracy", "examples", *SELECTED_BY[2:], "perplexity")  # if present


def read_best(experiment: Experiment, fitted: Fitted) -> TrainedModel:
    """Return the model of the best epoch."""
    with terminal.progress_bar(None, "reading the best checkpoint"):
        return restore_model(experiment, fitted.checkpoints, fitted.best)


def score_split(
    directory: RunDirectory, experiment: Experiment, model: TrainedModel, split: str, fitted: Fitted
) -> TextScores:
    """Score a split, and write the predictions; Interrupted: a signal came."""
    encoded = experiment.encoded[split]
    scored = score_texts(model, model.params, encoded, split, stop=fitted.check_stop)
    texts = experiment.texts[split]
    config = experiment.config
    write_predictions(directory, split, texts, scored.probabilities, config, model.thresholds)
    return scored


def score_test(
    directory: RunDirectory, experiment: Experiment, fitted: Fitted
) -> tuple[TrainedModel, TextScores]:
    """Score the test set once, with the model of the best epoch."""
    model = read_best(experiment, fitted)
    scored = score_split(directory, experiment, model, "test", fitted)
    fitted.log.write(
        step=fitted.best["step"],
        epoch=fitted.best["epoch"],
        split="test",
        **scored.scores,
        seconds=round(scored.seconds, 3),
        learning_rate=0.0,
    )
    return model, scored


def describe_result(
    experiment: Experiment, fitted: Fitted, fold_seconds: float = 0.0
) -> dict[str, Any]:
    """Return the content of result.json but for the test; `fold_seconds` are of training folds."""
    progress = fitted.progress
    best = fitted.best
    patience = experiment.config.early_stopping_patience
    return {
        "model": experiment.config.model.name,
        "best_step": best["step"],
        "best_epoch": best["epoch"],
        "val": {name: best[name] for name in VALIDATION if name in best},
        **{name: best[name] for name in ("temperature", "thresholds", "folds") if name in best},
        "train_seconds": round(progress.train_seconds + fold_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "epochs": progress.epochs_done,
        "stopped_early": progress.has_stopped(patience),
        "parameters": count_parameters(experiment.model),
        "seed": experiment.config.seed,
        "data_hash": experiment.statistics["data_hash"],
        "metrics": {"val": best["metrics"]} if "metrics" in best else {},  # of labeled texts
    }


def add_test(
    result: Mapping[str, Any], experiment: Experiment, model: TrainedModel, tested: TextScores
) -> dict[str, Any]:
    """Return the content of result.json with the scores of the test set."""
    labels = experiment.encoded["test"].labels
    found = (labels, tested.probabilities, experiment.classes, model.thresholds)
    measured = measure(experiment.kind, *found)
    return {
        **result,
        "test": tested.scores,
        "test_seconds": round(tested.seconds, 3),
        "metrics": result["metrics"] | {"test": measured},
    }


def restore_predictions(directory: RunDirectory, experiment: Experiment, fitted: Fitted) -> None:
    """Write the predictions of the validation split again if they were lost meanwhile."""
    path = directory.predictions["val"]
    env = read_json(directory.env)
    intact = path.is_file() and checksums(path).items() <= env.items()
    if f"{path.stem}_sha256" in env and not intact:
        score_split(directory, experiment, read_best(experiment, fitted), "val", fitted)


def finish(directory: RunDirectory, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write result.json, and return it: from now on the run is finished."""
    result = {**result, **checksums(directory.metrics)}
    write_json(directory.result, result)
    return result


def describe_folds(result: Mapping[str, Any]) -> str:
    """Return how the accuracies of a finished run's folds deviate, "" if it has none."""
    folds = result.get("folds", ())
    if not folds:
        return ""
    deviation = statistics.stdev(fold["accuracy"] for fold in folds)
    return f"{len(folds)} folds ± {deviation:.4f}; then {result['best_epoch']} epochs on all"


def print_validation(experiment: Experiment, result: Mapping[str, Any]) -> None:
    """Print the scores on the validation texts, or that none were held out."""
    config = experiment.config
    if scores := result["val"]:
        which = "last" if config.select_by == "last" else "best"
        remark = describe_folds(result) or f"epoch {result['best_epoch']}, the {which}"
        more = experiment.task.describe_scores(config, scores)
        console.print_scores("val", scores, remark, more=more, unit=experiment.task.unit)
        return
    texts = len(experiment.encoded["train"])
    epochs = result["epochs"]
    print_line("val", f"none: trained on all {texts:,} texts for the {epochs} epochs set")
    if config.early_stopping_patience:
        print_line("", "early_stopping_patience did nothing: it needs texts held out")
