"""The training loop: an epoch of steps, then its validation and checkpoint."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sentiment_jax.data import batches
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.errors import Diverged, Interrupted
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import calibration, compilation, flops, metrics, optimizers, scoring
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.progress import Progress, averages
from sentiment_jax.training.signals import Stop


@dataclasses.dataclass
class TrainingRun:
    """What is trained, where it writes, how far it is."""

    experiment: Experiment
    directory: RunDirectory
    checkpoints: Checkpoints
    progress: Progress
    state: Any  # steps.TrainState
    stop: Stop

    def __post_init__(self) -> None:
        experiment = self.experiment
        config = experiment.config
        train = experiment.encoded["train"]
        self.train_step = compilation.make_train_step(experiment)
        self.parameters = count_parameters(experiment.model)
        self.steps_per_epoch = math.ceil(len(train) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.learning_rate = optimizers.make_schedule(config.optimizer, self.total_steps)
        self.step_flops = {}
        for length in experiment.buckets:
            shape = (config.batch_size, length, *train.token_ids.shape[1:])
            cost = flops.training_flops(experiment.model, experiment.objective, shape)
            self.step_flops[length] = cost
        self.log = MetricsLog(self.directory.metrics, self.progress.records)
        self.compiled: set[int] = set()  # padded lengths

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        progress = self.progress
        return progress.epochs_done >= self.experiment.config.epochs or progress.stopped_early

    def log_scores(self, split: str, scores: dict[str, Any], seconds: float) -> None:
        """Write a line of metrics.jsonl about the step that has been reached."""
        self.directory.check_lock_owner()
        step = self.progress.step
        self.log.write(
            step=step,
            epoch=self.progress.epochs_done + 1,
            split=split,
            **scores,
            seconds=round(seconds, 3),
            learning_rate=self.learning_rate(step - 1),
        )

    def save(self) -> None:
        """Write the checkpoint of the step that has been reached."""
        progress = self.progress
        best = progress.best["step"] if progress.best else None
        self.directory.check_lock_owner()
        try:
            with progress_bar(None, f"saving step {progress.step}"):
                self.checkpoints.save(
                    progress.step,
                    self.state.params,
                    self.state.opt_state,
                    bookkeeping=dataclasses.asdict(progress),
                    best=best,
                )
        finally:  # another process may have taken over and deleted the partial checkpoint
            self.directory.check_lock_owner()

    def interrupt(self) -> None:
        """Save, unless training has ended, and raise Interrupted."""
        if self.state is not None:
            self.save()
        raise Interrupted(f"saved step {self.progress.step}; run the same command to continue")

    def check_stop(self) -> None:
        """Interrupt the run if a signal came."""
        if self.stop.asked():
            self.interrupt()


def train_epoch(run: TrainingRun) -> None:
    """Take the steps that are left of the current epoch.

    Diverged: a loss or norm is not finite. Interrupted: a signal came; the step is saved.
    """
    experiment = run.experiment
    progress = run.progress
    config = experiment.config
    encoded = experiment.encoded["train"]
    epoch = progress.epochs_done
    first = epoch * run.steps_per_epoch
    plan = batches.plan_epoch(
        encoded.lengths,
        batch_size=config.batch_size,
        buckets=experiment.buckets,
        seed=config.seed,
        epoch=epoch,
    )
    bar = progress_bar(run.total_steps, f"epoch {epoch + 1}/{config.epochs}", initial=progress.step)
    clock = time.perf_counter()

    def receive(metrics: dict[str, jax.Array], cost: int) -> None:
        nonlocal clock
        sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.perf_counter()
        progress.add(sums, now - clock, cost)
        clock = now
        _check_finite(run, sums)
        bar.update(1)
        shown = "loss {:.4f} accuracy {:.4f} {:.1f} examples/s".format(*averages(progress.epoch))
        bar.set_postfix_str(shown, refresh=False)

    behind = scoring.OneBehind(receive)
    with bar:
        for planned in plan[progress.step - first :]:
            rows = batches.make_batch(encoded, planned, config.batch_size)
            batch = devices.put_batch(rows, experiment.mesh)
            if planned.length not in run.compiled:
                bar.set_postfix_str(f"compiling for {planned.length} tokens", refresh=False)
            before = time.perf_counter()
            rate = np.float32(run.learning_rate(progress.dispatched))
            run.state, metrics = run.train_step(run.state, batch, rate)
            if planned.length not in run.compiled:
                # Tracing and compiling happen in this call; the step itself runs behind it.
                run.compiled.add(planned.length)
                spent = time.perf_counter() - before
                progress.compile_seconds += spent
                clock += spent
            behind.push(metrics, run.step_flops[planned.length])
            progress.dispatched += 1
            last = progress.dispatched == first + len(plan)
            logging = last or progress.dispatched % config.log_every == 0
            saving = not last and progress.dispatched % config.checkpoint_every == 0
            stopping = run.stop.asked()
            if logging or saving or stopping:
                behind.flush()
            if logging:
                run.log_scores("train", *progress.end_window())
            if stopping:
                run.interrupt()
            if saving:
                run.save()
                clock = time.perf_counter()


def _check_finite(run: TrainingRun, sums: dict[str, float]) -> None:
    if not all(map(math.isfinite, sums.values())):
        step = run.progress.step
        kept = run.checkpoints.steps[-1:] or "none"
        raise Diverged(
            f"diverged at step {step}: loss {sums['loss'] / sums['examples']:.4g}, learning rate "
            f"{run.learning_rate(step - 1):.3g}, gradient norm {sums['gradient_norm']:.4g}; lower "
            f"optimizer.learning_rate (last good checkpoint: {kept})",
            step,
        )


def validate_epoch(run: TrainingRun) -> None:
    """Score the validation split, if there is one, update best and patience, save.

    A signal meanwhile saves the step; its validation is repeated on resuming.
    """
    experiment = run.experiment
    progress = run.progress
    val = experiment.encoded["val"]
    if not len(val):
        progress.end_epoch({}, patience=0)
        run.save()
        _print_epoch(run)
        return
    if experiment.config.pretrain.objective:
        validated = _validate_text(run, val)
    else:
        validated = _validate_reviews(run, val)
    run.save()
    remark = "  best" if progress.is_best else ""
    _print_epoch(run, validated, remark)
    if progress.stopped_early:
        patience = experiment.config.early_stopping_patience
        tqdm.write(f"stopped early: {patience} epochs without a better score")


def _validate_text(run: TrainingRun, val: Encoded) -> str:
    """Score held-out text by the objective of a pre-training; return the scores in words."""
    scores = scoring.score_text(
        run.experiment, run.state.params, val, "validation", stop=run.check_stop
    )
    run.log_scores("val", scores.summary(), scores.seconds)
    run.progress.end_epoch(scores.summary(), run.experiment.config.early_stopping_patience)
    return f"{_describe(scores)} perplexity {scores.perplexity:.2f}"


def _validate_reviews(run: TrainingRun, val: Encoded) -> str:
    """Score held-out reviews; fit the temperature if they are the best so far."""
    experiment = run.experiment
    scores = scoring.score_reviews(
        experiment, run.state.params, val, "validation", stop=run.check_stop
    )
    run.log_scores("val", scores.summary(), scores.seconds)
    measured = metrics.measure(val.labels, scores.probabilities, experiment.classes)
    ranked = scores.summary()
    if experiment.config.class_weights == "balanced":
        ranked["balanced_accuracy"] = measured["balanced_accuracy"]
    run.progress.end_epoch(ranked, experiment.config.early_stopping_patience)
    if run.progress.best and run.progress.is_best:
        temperature = calibration.fit_temperature(scores.probabilities, val.labels)
        run.progress.best |= {"metrics": measured, "temperature": temperature}
    return _describe(scores)


def _describe(scores: scoring.Scores | scoring.TextScores) -> str:
    return f"  validation loss {scores.loss:.4f} accuracy {scores.accuracy:.4f}"


def _print_epoch(run: TrainingRun, validated: str = "", remark: str = "") -> None:
    """Print the line of the epoch that has ended."""
    progress = run.progress
    loss, accuracy, rate = averages(progress.last_epoch)
    tqdm.write(
        f"epoch {progress.epochs_done:>3}/{run.experiment.config.epochs}  train loss {loss:.4f} "
        f"accuracy {accuracy:.4f}{validated}  {rate:7.1f} examples/s{remark}"
    )
