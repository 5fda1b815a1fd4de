"""What is done beside the training: every n steps and at an epoch's last, and after an epoch.

To log to a tracker of your own, write a function of the run and add it to AFTER_EPOCH. The lines of
metrics.jsonl are in `run.progress.records` (of the main process), the scores of the epoch that has
ended in `run.validation`, which is None if no reviews are held out. What the tracker has to close
goes to `run.cleanup.callback`. Folds and the trials of a sweep are runs, too.
"""

from sentiment_jax.config.schema import Config
from sentiment_jax.data import predictions
from sentiment_jax.runtime import processes
from sentiment_jax.storage.files import read_json, write_array, write_json
from sentiment_jax.training.run import EMPTY_SUMS, Stage, TrainingRun, averages
from sentiment_jax.training.trained_model import thresholds_of


def log_steps(run: TrainingRun) -> None:
    """Write a line about the steps since the last one to metrics.jsonl."""
    sums = run.progress.window
    run.progress.window = EMPTY_SUMS.copy()
    loss, accuracy, _ = averages(sums)
    scores = {"loss": loss, "accuracy": accuracy, "examples": int(sums["examples"])}
    run.log_scores("train", scores, sums["seconds"])


def save_step(run: TrainingRun) -> None:
    """Write a checkpoint, but not at the end of an epoch, whose validation comes first."""
    if run.progress.step % run.steps_per_epoch:
        run.save()


def every_n_steps(config: Config) -> list[tuple[int, Stage]]:
    """Return (n, what is done after every n-th step and after the last one of an epoch)."""
    return [(config.log_every, log_steps), (config.checkpoint_every, save_step)]


def write_predictions(run: TrainingRun) -> None:
    """Write the predictions of the best epoch so far; a fold's probabilities also as they are."""
    probabilities = run.validation.probabilities if run.validation else None
    if probabilities is None or not run.progress.is_best:
        return
    val = run.experiment.reviews["val"]
    thresholds = thresholds_of(run.config, run.best)
    predictions.write_predictions(run.directory, "val", val, probabilities, run.config, thresholds)
    if run.experiment.pool and processes.is_main():  # a pool is a fold's
        entry = write_array(run.directory.probabilities, probabilities)
        write_json(run.directory.env, read_json(run.directory.env) | entry)


# The checkpoint comes after these: if a kill comes between them, the validation is repeated.
AFTER_EPOCH: list[Stage] = [write_predictions]
