"""The training loop: an epoch of steps, then its validation.

A step is dispatched before the metrics of the one before it are fetched, so that the devices do not
wait for the host. Before a hook of training/hooks.py is called, the step's own metrics are fetched.
"""

import math
import time
from typing import Any

import jax
import numpy as np

from sentiment_jax.data.batches import PlannedBatch
from sentiment_jax.errors import Diverged
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training import console, hooks
from sentiment_jax.training.run import TrainingRun, averages


def train_epoch(run: TrainingRun) -> None:
    """Take the steps that are left of the current epoch.

    Diverged: a loss or norm is not finite. Interrupted: a signal came; the step is saved.
    """
    config = run.config
    progress = run.progress
    epoch = progress.epochs_done
    plan = run.experiment.plan_epoch(epoch)
    first = epoch * run.steps_per_epoch
    every_n = hooks.every_n_steps(config)
    pending = None  # the metrics of the step before
    name = f"epoch {epoch + 1}/{run.epochs}"
    with progress_bar(run.total_steps, name, initial=progress.step) as bar:
        clock = time.perf_counter()
        for planned in plan[progress.dispatched - first :]:
            metrics, compile_seconds = _dispatch(run, planned, bar)
            clock += compile_seconds
            if pending is not None:
                clock = _account(run, pending, clock, bar)
            pending = metrics
            stopping = run.stop.asked()
            last = progress.dispatched == first + len(plan)
            due = [hook for n, hook in every_n if last or progress.dispatched % n == 0]
            if stopping or due:
                _account(run, pending, clock, bar)
                pending = None
                for hook in due:
                    hook(run)
                if stopping:
                    run.interrupt()
                clock = time.perf_counter()


def _dispatch(
    run: TrainingRun, planned: PlannedBatch, bar: Any
) -> tuple[dict[str, jax.Array], float]:
    """Hand the next step to the devices; return its metrics to come, and the seconds to compile."""
    experiment = run.experiment
    progress = run.progress
    filled = experiment.training_batch(planned)
    batch = devices.put_batch(filled, experiment.mesh)
    shape = filled["token_ids"].shape
    compiling = shape not in run.compiled_shapes
    if compiling:
        bar.set_postfix_str(f"compiling for {shape[0]} x {shape[1]} tokens", refresh=False)
    start = time.perf_counter()
    rate = np.float32(run.learning_rate(progress.dispatched))
    run.state, metrics = run.train_step(run.state, batch, rate)
    progress.dispatched += 1
    if not compiling:
        return metrics, 0.0
    # Tracing and compiling happen in this call; the step itself runs behind it.
    run.compiled_shapes.add(shape)
    seconds = time.perf_counter() - start
    progress.compile_seconds += seconds
    if not bar.disable:
        bar.last_print_t += seconds  # or the ETA would count it for later steps
    return metrics, seconds


def _account(run: TrainingRun, metrics: dict[str, jax.Array], clock: float, bar: Any) -> float:
    """Wait for the metrics of a step and add them up; return the time."""
    progress = run.progress
    sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
    now = time.perf_counter()
    progress.add(sums, now - clock)
    if not all(map(math.isfinite, sums.values())):
        step = progress.step
        kept = run.checkpoints.steps[-1:] or "none"
        raise Diverged(
            f"diverged at step {step}: loss {sums['loss'] / sums['examples']:.4g}, learning rate "
            f"{run.learning_rate(step - 1):.3g}, gradient norm {sums['gradient_norm']:.4g}; lower "
            f"optimizer.learning_rate (last good checkpoint: {kept})",
            step,
        )
    if progress.step == console.FEW_STEPS:
        console.warn_of_slow_epochs(run)
    bar.update(1)
    shown = "loss {:.4f} accuracy {:.4f} {:.1f} examples/s"
    bar.set_postfix_str(shown.format(*averages(progress.epoch)), refresh=False)
    return now


def validate_epoch(run: TrainingRun) -> None:
    """Score the validation split, if any, record its scores, call the hooks, save.

    A signal meanwhile saves the step; its validation is repeated on resuming.
    """
    experiment = run.experiment
    task = experiment.task
    scores: dict[str, Any] = {}
    more = run.cross_validated
    run.validation = None
    if len(experiment.encoded["val"]):
        run.validation = task.validate(experiment, run.state.params, run.check_stop)
        scores = run.validation.scores
        more = run.validation.more
        run.log_scores("val", scores, run.validation.seconds)
    ranking = task.make_ranking(run.config)
    waits = ranking.last and run.progress.epochs_done + 1 < run.epochs
    patience = run.config.early_stopping_patience
    run.progress.end_epoch(scores, more, patience, None if waits else ranking)
    for hook in hooks.AFTER_EPOCH:
        hook(run)
    if not waits:  # else every `checkpoint_every` steps
        run.save()
    console.print_epoch(run)
