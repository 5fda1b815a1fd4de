"""The training loop: an epoch of steps, then its validation and checkpoint."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sentiment_jax.data import batches
from sentiment_jax.errors import Diverged, Interrupted
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.training import calibration, compilation, flops, metrics, optimizers, scoring
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.registry import make_objective
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
        experiment, config = self.experiment, self.experiment.config
        self.train_step = compilation.make_train_step(experiment)
        objective = make_objective(experiment)
        self.parameters = count_parameters(experiment.model)
        self.steps_per_epoch = math.ceil(len(experiment.encoded["train"]) / config.batch_size)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.learning_rate = optimizers.make_schedule(experiment.optimizer, self.total_steps)
        model, runs = experiment.model, experiment.encoded["train"].token_ids.shape[1:]
        self.step_flops = {
            length: flops.training_flops(model, config.batch_size, length, objective, runs)
            for length in experiment.buckets
        }
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
        step, rate = self.progress.step, self.learning_rate(self.progress.step - 1)
        at = {"step": step, "epoch": self.progress.epochs_done + 1, "split": split}
        self.log.write(**at, **scores, seconds=round(seconds, 3), learning_rate=rate)

    def save(self) -> None:
        """Write the checkpoint of the step that has been reached."""
        progress, state = self.progress, self.state
        best = progress.best["step"] if progress.best else None
        bookkeeping = dataclasses.asdict(progress)
        self.directory.check_lock_owner()
        try:
            with progress_bar(None, f"saving step {progress.step}"):
                self.checkpoints.save(
                    progress.step, state.params, state.opt_state, bookkeeping, best
                )
        finally:  # whoever came meanwhile has removed what was half-written
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
    experiment, progress, config = run.experiment, run.progress, run.experiment.config
    epoch, encoded = progress.epochs_done, experiment.encoded["train"]
    first, size = epoch * run.steps_per_epoch, config.batch_size
    plan = batches.plan_epoch(
        encoded.lengths, batch_size=size, buckets=experiment.buckets, seed=config.seed, epoch=epoch
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
            rows = batches.make_batch(encoded, planned, size)
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
        step, kept = run.progress.step, run.checkpoints.steps[-1:] or "none"
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
    config, progress, val = run.experiment.config, run.progress, run.experiment.encoded["val"]
    if not len(val):
        progress.end_epoch({}, patience=0)
        run.save()
        _write_epoch(run, "")
        return
    params, stop = run.state.params, run.check_stop
    score = scoring.score_text if config.pretrain.objective else scoring.score_reviews
    scores: Any = score(run.experiment, params, val, "validation", stop=stop)
    ranked, more = scores.summary(), ""
    run.log_scores("val", ranked, scores.seconds)
    if config.pretrain.objective:
        more = f" perplexity {scores.perplexity:.2f}"
    else:
        figures = metrics.measure(val.labels, scores.probabilities, run.experiment.classes)
        chosen_by = ["balanced_accuracy"] if config.class_weights == "balanced" else []
        ranked |= {name: figures[name] for name in chosen_by}
    progress.end_epoch(ranked, config.early_stopping_patience)
    best = progress.best if progress.best and progress.best["epoch"] == progress.epochs_done else {}
    if best and not config.pretrain.objective:
        temperature = calibration.fit_temperature(scores.probabilities, val.labels)
        best |= {"metrics": figures, "temperature": temperature}
    run.save()
    validated = f"  validation loss {scores.loss:.4f} accuracy {scores.accuracy:.4f}{more}"
    _write_epoch(run, validated, "  best" * bool(best))
    if progress.stopped_early:
        tqdm.write(f"stopped early: {config.early_stopping_patience} epochs without a better score")


def _write_epoch(run: TrainingRun, validated: str, remark: str = "") -> None:
    """Print the line of the epoch that has ended."""
    progress = run.progress
    loss, accuracy, rate = averages(progress.last_epoch)
    tqdm.write(
        f"epoch {progress.epochs_done:>3}/{run.experiment.config.epochs}  train loss {loss:.4f} "
        f"accuracy {accuracy:.4f}{validated}  {rate:7.1f} examples/s{remark}"
    )
