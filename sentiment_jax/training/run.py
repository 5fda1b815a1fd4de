"""A training run as one object: what is trained, where it writes, how far it is."""

import dataclasses
import math
from typing import Any

from sentiment_jax.errors import Interrupted
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.storage.selection import WORST, validation_rank
from sentiment_jax.training import compilation, optimizers
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.parameters import count_parameters
from sentiment_jax.training.signals import Stop

EMPTY_SUMS = {"loss": 0.0, "correct": 0.0, "examples": 0.0, "seconds": 0.0}


@dataclasses.dataclass
class Progress:
    """Where training stands; saved as JSON with each checkpoint."""

    step: int = 0  # steps whose metrics have arrived; what a checkpoint stands for
    dispatched: int = 0  # steps handed to the device
    epochs_done: int = 0  # epochs trained and validated
    window: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    epoch: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    last_epoch: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    best: dict[str, Any] | None = None
    epochs_since_best: int = 0
    stopped_early: bool = False
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of metrics.jsonl

    def add(self, sums: dict[str, float], seconds: float) -> None:
        """Add one finished step."""
        self.step += 1
        for total in (self.window, self.epoch):
            for name in ("loss", "correct", "examples"):
                total[name] += sums[name]
            total["seconds"] += seconds
        self.train_seconds += seconds

    def end_window(self) -> tuple[dict[str, Any], float]:
        """Return scores and seconds of the steps since the last call."""
        sums = self.window
        self.window = EMPTY_SUMS.copy()
        loss, accuracy, _ = averages(sums)
        scores = {"loss": loss, "accuracy": accuracy, "examples": int(sums["examples"])}
        return scores, sums["seconds"]

    @property
    def is_best(self) -> bool:
        """Whether the epoch that has ended is the best one so far."""
        return self.best is not None and self.best["epoch"] == self.epochs_done

    def end_epoch(self, scores: dict[str, Any], patience: int, select_by: str) -> None:
        """Record the scores of a validation: epochs done, best, patience.

        Without scores, where no reviews are held out, the newest epoch is the best.
        """
        self.epochs_done += 1
        self.last_epoch = self.epoch
        self.epoch = EMPTY_SUMS.copy()
        now = {**scores, "step": self.step, "epoch": self.epochs_done}
        if not scores:
            self.best = now
            return
        self.epochs_since_best += 1
        rank = validation_rank(now, select_by)
        before = validation_rank(self.best, select_by)
        if rank > before:
            self.epochs_since_best = 0
        if rank >= before and rank != WORST:
            self.best = now
        self.stopped_early = bool(patience) and self.epochs_since_best >= patience


def averages(sums: dict[str, float]) -> tuple[float, float, float]:
    """Return mean loss, accuracy (dropout on, parameters moving) and examples per second."""
    examples = sums["examples"]
    rate = examples / max(sums["seconds"], 1e-9)
    return sums["loss"] / examples, sums["correct"] / examples, rate


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
        config = self.experiment.config
        self.train_step = compilation.make_train_step(self.experiment)
        self.parameters = count_parameters(self.experiment.model)
        self.steps_per_epoch = math.ceil(len(self.experiment.encoded["train"]) / config.batch_size)
        # A cross-validation decides when to end, but not the schedule, which its folds shared.
        held_out = len(self.experiment.encoded["val"]) if config.data.fold else 0
        whole = math.ceil((len(self.experiment.encoded["train"]) + held_out) / config.batch_size)
        most = max(config.epochs, math.ceil(config.min_steps / whole))
        self.epochs = self.experiment.epochs or most
        self.total_steps = self.epochs * self.steps_per_epoch
        steps = most * self.steps_per_epoch
        self.learning_rate = optimizers.make_schedule(config.optimizer, steps)
        self.log = MetricsLog(self.directory.metrics, self.progress.records)
        self.compiled_lengths: set[int] = set()  # padded, of the steps compiled so far

    @property
    def done(self) -> bool:
        """Whether no epoch is left."""
        progress = self.progress
        return progress.epochs_done >= self.epochs or progress.stopped_early

    def log_scores(self, split: str, scores: dict[str, Any], seconds: float) -> None:
        """Write a line of metrics.jsonl about the step that has been reached."""
        self.log.write(
            step=self.progress.step,
            epoch=self.progress.epochs_done + 1,
            split=split,
            **scores,
            seconds=round(seconds, 3),
            learning_rate=self.learning_rate(self.progress.step - 1),
        )

    def save(self) -> None:
        """Write the checkpoint of the step that has been reached."""
        progress = self.progress
        with progress_bar(None, f"saving step {progress.step}"):
            self.checkpoints.save(
                progress.step,
                self.state.params,
                self.state.opt_state,
                bookkeeping=dataclasses.asdict(progress),
                best=progress.best["step"] if progress.best else None,
            )

    def interrupt(self) -> None:
        """Save, unless training has ended, and raise Interrupted."""
        if self.state is not None:
            self.save()
        raise Interrupted(f"saved step {self.progress.step}; {self.stop.remedy}")

    def check_stop(self) -> None:
        """Interrupt the run if a signal came."""
        if self.stop.asked():
            self.interrupt()
