"""The training loop: an epoch of steps, then its validation and checkpoint."""

import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from sentiment_jax.data import batches
from sentiment_jax.errors import Diverged
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training import console, metrics, scoring
from sentiment_jax.training.run import TrainingRun, averages


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
    end = first + len(plan)
    bar = progress_bar(run.total_steps, f"epoch {epoch + 1}/{run.epochs}", initial=progress.step)
    clock = time.perf_counter()
    stopping = False

    def dispatch() -> Iterator[dict[str, jax.Array]]:
        """Yield the metrics of each step, up to one to log, to save or to stop at."""
        nonlocal clock, stopping
        for planned in plan[progress.dispatched - first :]:
            rows = batches.make_batch(encoded, planned, config.batch_size)
            batch = devices.put_batch(rows, experiment.mesh)
            compiling = planned.length not in run.compiled_lengths
            if compiling:
                bar.set_postfix_str(f"compiling for {planned.length} tokens", refresh=False)
            before = time.perf_counter()
            rate = np.float32(run.learning_rate(progress.dispatched))
            run.state, metrics = run.train_step(run.state, batch, rate)
            if compiling:
                # Tracing and compiling happen in this call; the step itself runs behind it.
                run.compiled_lengths.add(planned.length)
                spent = time.perf_counter() - before
                progress.compile_seconds += spent
                clock += spent
            progress.dispatched += 1
            yield metrics
            stopping = run.stop.asked()
            due = [progress.dispatched % n for n in (config.log_every, config.checkpoint_every)]
            if stopping or 0 in due:
                return

    with bar:
        while progress.dispatched < end:
            for metrics in scoring.one_behind(dispatch()):
                sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
                now = time.perf_counter()
                progress.add(sums, now - clock)
                clock = now
                _check_finite(run, sums)
                bar.update(1)
                shown = "loss {:.4f} accuracy {:.4f} {:.1f} examples/s"
                bar.set_postfix_str(shown.format(*averages(progress.epoch)), refresh=False)
            last = progress.dispatched == end
            if last or progress.dispatched % config.log_every == 0:
                run.log_scores("train", *progress.end_window())
            if stopping:
                run.interrupt()
            if not last and progress.dispatched % config.checkpoint_every == 0:
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
    """Score the validation split, if any, update best (storage/selection.py) and patience, save.

    A signal meanwhile saves the step; its validation is repeated on resuming.
    """
    experiment = run.experiment
    progress = run.progress
    config = experiment.config
    val = experiment.encoded["val"]
    scores = None
    ranked: dict[str, Any] = {}
    if len(val):
        score = scoring.score_text if config.pretrain.objective else scoring.score_reviews
        scores = score(experiment, run.state.params, val, "validation", stop=run.check_stop)
        ranked = scores.summary()
    if isinstance(scores, scoring.ReviewScores):
        measured = metrics.measure(val.labels, scores.probabilities, experiment.classes)
        if config.class_weights == "balanced":
            ranked["balanced_accuracy"] = measured["balanced_accuracy"]
        if config.select_by in measured:
            ranked[config.select_by] = measured[config.select_by]
    if scores is not None:
        run.log_scores("val", ranked, scores.seconds)
    progress.end_epoch(ranked, config.early_stopping_patience, config.select_by)
    if progress.best and progress.is_best:
        if isinstance(scores, scoring.ReviewScores):
            temperature = metrics.fit_temperature(scores.probabilities, val.labels)
            progress.best |= {"metrics": measured, "temperature": temperature}
            order = experiment.statistics["order_hash"]["val"]
            found = scores.probabilities
            # Before the checkpoint: if a kill comes between them, the validation is repeated.
            run.directory.write_predictions("val", val, found, order, config)
        progress.best |= experiment.validated
    run.save()
    console.print_epoch(progress, config, ranked, run.epochs)
