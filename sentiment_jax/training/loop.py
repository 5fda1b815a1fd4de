"""One epoch of training and its validation."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sentiment_jax.data import batches
from sentiment_jax.errors import Diverged, Interrupted
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.progress import Progress
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.steps import TrainState


@dataclasses.dataclass
class TrainingRun:
    """Everything an epoch touches."""

    experiment: Experiment
    workdir: Path
    mesh: Any
    checkpoints: Checkpoints
    log: MetricsLog
    stop: Stop
    progress: Progress
    steps_per_epoch: int
    schedule: Callable[[int], float]
    step_function: Callable[..., Any]
    step_flops: dict[int, int]  # by padded length
    compiled: set[int] = dataclasses.field(default_factory=set)  # padded lengths seen

    def save(self, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Writes the checkpoint of the step that the bookkeeping stands at."""
        self.checkpoints.save(
            self.progress.step, state.params, state.opt_state, self.progress.to_json(), metrics
        )


def train_epoch(run: TrainingRun, state: TrainState) -> TrainState:
    """Takes the steps that are left of the current epoch."""
    config, progress = run.experiment.config, run.progress
    epoch, encoded = progress.epochs_done, run.experiment.encoded["train"]
    plan = batches.plan_epoch(
        encoded.lengths,
        batch_size=config.batch_size,
        buckets=run.experiment.buckets,
        seed=config.seed,
        epoch=epoch,
    )
    assert len(plan) == run.steps_per_epoch
    pending: tuple[dict[str, jax.Array], int] | None = None  # metrics and cost of a step
    clock = time.perf_counter()
    first = progress.step - epoch * run.steps_per_epoch
    bar = progress_bar(
        config.epochs * run.steps_per_epoch,
        f"epoch {epoch + 1}/{config.epochs}",
        initial=progress.step,
    )

    def drain() -> None:
        # Waits for the step before the one just dispatched: the device is never idle meanwhile.
        nonlocal pending, clock
        if pending is None:
            return
        metrics, cost = pending
        sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
        pending = None
        now = time.perf_counter()
        progress.add(sums, now - clock, cost)
        clock = now
        _check_finite(run, sums)
        bar.update(1)
        bar.set_postfix_str(progress.rates(), refresh=False)

    with bar:
        for planned in plan[first:]:
            batch = devices.put_batch(
                batches.make_batch(encoded, planned, config.batch_size), run.mesh
            )
            before = time.perf_counter()
            rate = np.float32(run.schedule(progress.dispatched))
            state, metrics = run.step_function(state, batch, rate)
            if planned.length not in run.compiled:
                # Tracing and compiling happen in this call; the step itself runs behind it.
                run.compiled.add(planned.length)
                spent = time.perf_counter() - before
                progress.compile_seconds += spent
                clock += spent
            drain()
            pending = metrics, run.step_flops[planned.length]
            progress.dispatched += 1
            last = progress.dispatched == (epoch + 1) * run.steps_per_epoch
            logging = last or progress.dispatched % config.log_every == 0
            saving = not last and progress.dispatched % config.checkpoint_every == 0
            stopping = run.stop.asked()
            if logging or saving or stopping:
                drain()
            if logging:
                run.log.write(**progress.window_record(run.schedule(progress.step - 1), epoch))
            if saving or stopping:
                run.save(state)
                clock = time.perf_counter()
            if stopping:
                run.stop.interrupt(progress.step)
    return state


def _check_finite(run: TrainingRun, sums: dict[str, float]) -> None:
    if not all(math.isfinite(value) for value in sums.values()):
        step, kept = run.progress.step, run.checkpoints.steps[-1:] or "none"
        raise Diverged(
            f"diverged at step {step}: loss {sums['loss'] / sums['examples']:.4g}, learning rate "
            f"{run.schedule(step - 1):.3g}, gradient norm {sums['gradient_norm']:.4g}; lower "
            f"optimizer.learning_rate (last good checkpoint: {kept})",
            step,
        )


def validate_epoch(run: TrainingRun, state: TrainState) -> None:
    """Scores the validation split, updates best and patience, saves."""
    config, progress = run.experiment.config, run.progress
    try:
        scores = scoring.score_reviews(
            run.experiment.model,
            state.params,
            run.experiment.encoded["val"],
            batch_size=config.eval_batch_size,
            buckets=run.experiment.buckets,
            mesh=run.mesh,
            description="validation",
            stop=lambda: run.stop.check(progress.step),
        )
    except Interrupted:
        run.save(state)
        raise
    epoch = progress.epochs_done
    progress.end_epoch(scores, config.early_stopping_patience)
    record = {"step": progress.step, "epoch": epoch + 1, "split": "val", **scores.summary()}
    rate = run.schedule(progress.step - 1)
    run.log.write(**record, seconds=round(scores.seconds, 3), learning_rate=rate)
    finite = math.isfinite(scores.loss)
    run.save(state, {"accuracy": scores.accuracy, "loss": scores.loss} if finite else None)
    mark = "  best" if progress.best and progress.best["epoch"] == epoch + 1 else ""
    tqdm.write(
        f"epoch {epoch + 1:>3}/{config.epochs}  train loss {progress.epoch_loss:.4f} accuracy "
        f"{progress.epoch_accuracy:.4f}  validation loss {scores.loss:.4f} accuracy "
        f"{scores.accuracy:.4f}  {progress.epoch_rate:7.1f} examples/s{mark}"
    )
    if progress.stopped_early:
        tqdm.write(f"stopped early: {config.early_stopping_patience} epochs without a better score")
