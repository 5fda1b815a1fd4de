"""`fit` trains: it is the only function of the package that takes a step.

A run, a fold of a cross-validation, a trial of a sweep, a recipe of a comparison, a student and a
pre-training are calls of it with other data and another objective. It resumes by itself.

A step is dispatched before the metrics of the one before it are fetched, so that the devices do not
wait for the host. Before anything is written, the step's own metrics are fetched.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Float32

from sentiment_jax.data.batches import PlannedBatch
from sentiment_jax.data.predictions import write_predictions
from sentiment_jax.errors import Diverged, Interrupted, RunError
from sentiment_jax.models.parameters import count_parameters
from sentiment_jax.runtime import devices, processes
from sentiment_jax.runtime.terminal import progress_bar, warn
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.files import read_json, write_array, write_json
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.training import console, probe
from sentiment_jax.training.experiment import Experiment, Validation
from sentiment_jax.training.optimizers import make_schedule
from sentiment_jax.training.progress import NO_SUMS, Fitted, Progress, averages
from sentiment_jax.training.resume import open_checkpoints, restore
from sentiment_jax.training.run import Run, begin, first_params
from sentiment_jax.training.steps import TrainState, create_state
from sentiment_jax.training.trained_model import thresholds_of


@dataclasses.dataclass(frozen=True)
class Training:
    """What the steps of one call of `fit` share."""

    run: Run
    experiment: Experiment
    checkpoints: Checkpoints
    log: MetricsLog
    train_step: Wrapped
    learning_rate: Callable[[int], float]  # of each step, from 0
    epochs: int  # after which it ends; the schedule is that of `Experiment.epochs`

    @property
    def total_steps(self) -> int:
        """The steps after which training ends."""
        return self.epochs * self.experiment.steps_per_epoch

    def log_scores(
        self, split: str, scores: Mapping[str, Any], seconds: float, progress: Progress
    ) -> None:
        """Write a line of metrics.jsonl about the step that has been reached."""
        self.log.write(
            step=progress.step,
            epoch=progress.epochs_done + 1,
            split=split,
            **scores,
            seconds=round(seconds, 3),
            learning_rate=self.learning_rate(progress.step - 1),
        )

    def log_steps(self, progress: Progress) -> Progress:
        """Write a line about the steps since the last one."""
        sums = progress.window
        loss, accuracy, _ = averages(sums)
        scores = {"loss": loss, "accuracy": accuracy, "examples": int(sums["examples"])}
        self.log_scores("train", scores, sums["seconds"], progress)
        return progress.replace(window=NO_SUMS.copy())

    def save(self, state: TrainState, progress: Progress) -> None:
        """Write the checkpoint of the step that has been reached."""
        with progress_bar(None, f"saving step {progress.step}"):
            self.checkpoints.save(
                progress.step,
                state.params,
                state.opt_state,
                bookkeeping={**dataclasses.asdict(progress), "records": self.log.records},
                best=progress.best["step"] if progress.best else None,
            )

    def check_stop(self, state: TrainState, progress: Progress) -> None:
        """If a signal came, save, unless the step is saved, and raise Interrupted."""
        if self.run.stop.asked():
            self.interrupt(state, progress)

    def interrupt(self, state: TrainState, progress: Progress) -> None:
        """Save, unless the step is saved, and raise Interrupted."""
        if progress.step not in self.checkpoints.steps:
            self.save(state, progress)
        raise Interrupted(f"saved step {progress.step}; {self.run.stop.remedy}")


# Called after each epoch, for example to log it to a tracker: its lines of metrics.jsonl are in
# `training.log.records`; the validation is None if no texts are held out. It is called again for
# an epoch whose checkpoint a kill prevented, and not for the folds of a cross-validation.
AfterEpoch: TypeAlias = Callable[[Training, Progress, Validation | None], None]


def fit(
    run: Run,
    experiment: Experiment,
    *,
    cross_validated: Mapping[str, Any] | None = None,
    epochs: int = 0,
    compile_seconds: float = 0.0,
    tensorboard: bool = False,
    after_epoch: Sequence[AfterEpoch] = (),
) -> Fitted:
    """Take the steps that are left, each epoch followed by its validation.

    Args:
      run: where it begins, or resumes at the newest good checkpoint.
      experiment: the data that it learns from and validates on, and their network. It has no test
        split: `Experiment.without_test`.
      cross_validated: what folds, trained after the run began, record of the best epoch.
      epochs: where it ends, if not at the experiment's.
      compile_seconds: those spent before, on steps that are taken here.
      tensorboard: write event files as well.
      after_epoch: called after each epoch, before its checkpoint is written.

    Raises:
      Diverged: a loss or norm is not finite.
      Interrupted: a signal came; the step is saved.
      RunError: every checkpoint is damaged, or the best one.
    """
    assert "test" not in experiment.encoded, "a training is given no test split"
    params, report = first_params(run, experiment) if cross_validated else begin(run, experiment)
    training, state, progress = _open(run, experiment, params, epochs or experiment.epochs)
    del params  # not twice in memory
    progress = progress.replace(compile_seconds=progress.compile_seconds + compile_seconds)
    if tensorboard and processes.is_main():
        training.log.open_events(run.directory.tensorboard, run.cleanup)
    console.describe_training(run.directory, experiment, training.epochs, progress, report)
    if progress.step == 0 and probe.is_wanted(experiment, report):
        state, progress = _start_from_probe(training, state, progress)
    compiled: set[Any] = set()  # shapes of the steps' tokens
    patience = experiment.config.early_stopping_patience
    while progress.epochs_done < training.epochs and not progress.has_stopped(patience):
        if experiment.config.optimizer.takes_steps:
            state, progress = _train_epoch(training, state, progress, compiled)
        elif not progress.step:  # else a signal came in its validation
            state, progress = _fit_classifier(training, state, progress)
        progress = _validate_epoch(training, state, progress, cross_validated or {}, after_epoch)
    best = progress.best and progress.best["step"]
    if best not in training.checkpoints.steps:
        problem = f"the best checkpoint (step {best}) is not in {run.directory.checkpoints}"
        raise RunError(f"{problem}: delete {run.directory.path}, it is trained again")
    return Fitted(progress, training.checkpoints, training.log, run.stop)


def _open(
    run: Run, experiment: Experiment, first: Any, epochs: int
) -> tuple[Training, TrainState, Progress]:
    """Return the newest good checkpoint's state and progress, or those before the first step."""
    with progress_bar(None, "preparing the model"):
        checkpoints = open_checkpoints(run.directory)
        state, progress, records = (
            restore(experiment, checkpoints) if checkpoints.steps else _start(experiment, first)
        )
    if ignored := ", ".join(checkpoints.ignored[:5]):
        warn(f"no checkpoints, ignored in {checkpoints.directory}: {ignored}")
    steps = experiment.epochs * experiment.steps_per_epoch
    training = Training(
        run=run,
        experiment=experiment,
        checkpoints=checkpoints,
        log=MetricsLog(run.directory.metrics, records),
        train_step=experiment.task.make_train_step(experiment),
        learning_rate=make_schedule(experiment.config.optimizer, steps),
        epochs=epochs,
    )
    return training, state, progress


def _start(experiment: Experiment, first: Any) -> tuple[TrainState, Progress, list[dict[str, Any]]]:
    """Return the state before the first step."""
    params = jax.tree.map(jnp.asarray, first)
    state = create_state(params, experiment.config.optimizer, experiment.config.seed)
    return devices.place(state, experiment.mesh), Progress(), []


def _train_epoch(
    training: Training, state: TrainState, progress: Progress, compiled: set[Any]
) -> tuple[TrainState, Progress]:
    """Take the steps that are left of the current epoch."""
    experiment = training.experiment
    config = experiment.config
    first = progress.epochs_done * experiment.steps_per_epoch
    plan = experiment.plan_epoch(progress.epochs_done)
    pending = None  # the metrics of the step before
    name = f"epoch {progress.epochs_done + 1}/{training.epochs}"
    with progress_bar(training.total_steps, name, initial=progress.step) as bar:
        clock = time.perf_counter()
        for step, planned in enumerate(plan[progress.step - first :], start=progress.step + 1):
            state, metrics, seconds = _dispatch(training, state, step, planned, compiled, bar)
            progress = progress.replace(compile_seconds=progress.compile_seconds + seconds)
            clock += seconds
            if pending is not None:
                progress, clock = _account(training, progress, pending, clock, bar)
            pending = metrics
            stopping = training.run.stop.asked()
            last = step == first + len(plan)
            logs = last or step % config.log_every == 0
            saves = step % config.checkpoint_every == 0 and not last  # its validation comes first
            if stopping or logs or saves:
                progress, _ = _account(training, progress, pending, clock, bar)
                pending = None
                if logs:
                    progress = training.log_steps(progress)
                if saves:
                    training.save(state, progress)
                if stopping:
                    training.interrupt(state, progress)
                clock = time.perf_counter()
    return state, progress


def _dispatch(
    training: Training,
    state: TrainState,
    step: int,
    planned: PlannedBatch,
    compiled: set[Any],
    bar: Any,
) -> tuple[TrainState, dict[str, jax.Array], float]:
    """Hand a step to the devices; return its metrics to come, and the seconds to compile."""
    experiment = training.experiment
    filled = experiment.training_batch(planned)
    batch = devices.put_batch(filled, experiment.mesh)
    shape = filled["token_ids"].shape
    compiling = shape not in compiled
    if compiling:
        bar.set_postfix_str(f"compiling for {shape[0]} x {shape[1]} tokens", refresh=False)
    start = time.perf_counter()
    rate = np.float32(training.learning_rate(step - 1))
    state, metrics = training.train_step(state, batch, rate)
    if not compiling:
        return state, metrics, 0.0
    # Tracing and compiling happen in this call; the step itself runs behind it.
    compiled.add(shape)
    seconds = time.perf_counter() - start
    if not bar.disable:
        bar.last_print_t += seconds  # or the ETA would count it for later steps
    return state, metrics, seconds


def _account(
    training: Training, progress: Progress, metrics: dict[str, jax.Array], clock: float, bar: Any
) -> tuple[Progress, float]:
    """Wait for the metrics of a step and add them up; also return the time."""
    sums = {name: float(value) for name, value in jax.device_get(metrics).items()}
    now = time.perf_counter()
    progress = progress.add(sums, now - clock)
    if not all(map(math.isfinite, sums.values())):
        kept = training.checkpoints.steps[-1:] or "none"
        raise Diverged(
            f"diverged at step {progress.step}: loss {sums['loss'] / sums['examples']:.4g}, "
            f"learning rate {training.learning_rate(progress.step - 1):.3g}, gradient norm "
            f"{sums['gradient_norm']:.4g}; lower optimizer.learning_rate (last good checkpoint: "
            f"{kept})",
            progress.step,
        )
    if progress.step == console.FEW_STEPS:
        parameters = count_parameters(training.experiment.model)
        console.warn_of_slow_epochs(training.experiment, progress, parameters)
    bar.update(1)
    shown = "loss {:.4f} accuracy {:.4f} {:.1f} examples/s"
    bar.set_postfix_str(shown.format(*averages(progress.epoch)), refresh=False)
    return progress, now


def _start_from_probe(
    training: Training, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """Fit the last layer before the first step."""
    start = time.perf_counter()
    params = probe.fitted_params(
        training.experiment, state.params, lambda: training.check_stop(state, progress)
    )
    state = _replace(training, state, params, step=0)
    seconds = progress.train_seconds + time.perf_counter() - start
    return state, progress.replace(train_seconds=seconds)


def _fit_classifier(
    training: Training, state: TrainState, progress: Progress
) -> tuple[TrainState, Progress]:
    """Fit the last layer in place of an epoch of steps."""
    start = time.perf_counter()
    params, sums = probe.fit_classifier(
        training.experiment, state.params, lambda: training.check_stop(state, progress)
    )
    progress = progress.add(sums, time.perf_counter() - start)
    return _replace(training, state, params, step=1), training.log_steps(progress)


def _replace(training: Training, state: TrainState, params: Any, step: int) -> TrainState:
    changed = jax.tree.map(jnp.asarray, {"step": np.int32(step), "params": params})
    return state.replace(**devices.place(changed, training.experiment.mesh))


def _validate_epoch(
    training: Training,
    state: TrainState,
    progress: Progress,
    more: Mapping[str, Any],
    after_epoch: Sequence[AfterEpoch],
) -> Progress:
    """Score the validation split, if any, record its scores, save.

    A signal meanwhile saves the step; its validation is repeated on resuming.
    """
    experiment = training.experiment
    task = experiment.task
    config = experiment.config
    epoch = progress.epoch
    scores: dict[str, Any] = {}
    validation = None
    if len(experiment.encoded["val"]):
        validation = task.validate(
            experiment, state.params, lambda: training.check_stop(state, progress)
        )
        scores = validation.scores
        more = validation.more
        training.log_scores("val", scores, validation.seconds, progress)
    ranking = task.make_ranking(config)
    waits = ranking.last and progress.epochs_done + 1 < training.epochs
    ended = progress.end_epoch(scores, dict(more), None if waits else ranking)
    if validation and validation.probabilities is not None and ended.is_best:
        _write_predictions(training, ended, validation.probabilities)
    for function in after_epoch:
        function(training, ended, validation)
    if not waits:  # else every `checkpoint_every` steps
        training.save(state, ended)  # last: if a kill comes before, the validation is repeated
    console.print_epoch(experiment, training.epochs, ended, epoch, validation)
    return ended


def _write_predictions(
    training: Training, progress: Progress, probabilities: Float32[np.ndarray, "texts classes"]
) -> None:
    """Write the predictions of the best epoch so far; a fold's probabilities also as they are."""
    directory = training.run.directory
    config = training.experiment.config
    thresholds = thresholds_of(config, progress.best or {})
    val = training.experiment.texts["val"]
    write_predictions(directory, "val", val, probabilities, config, thresholds)
    if training.experiment.pool and processes.is_main():  # a pool is a fold's
        entry = write_array(directory.probabilities, probabilities)
        write_json(directory.env, read_json(directory.env) | entry)
