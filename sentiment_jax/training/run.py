"""A training run as one object: what is trained, where it writes, how far it is."""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from jax.stages import Wrapped

from sentiment_jax.config.schema import Config
from sentiment_jax.errors import Interrupted
from sentiment_jax.huggingface.weights import LoadReport
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.run_directory import RunDirectory
from sentiment_jax.storage.selection import WORST, Ranking
from sentiment_jax.training.checks import Options, Start
from sentiment_jax.training.experiment import Experiment, Task, Validation
from sentiment_jax.training.parameters import count_parameters
from sentiment_jax.training.scoring import ReviewScores
from sentiment_jax.training.signals import Stop
from sentiment_jax.training.trained_model import TrainedModel

EMPTY_SUMS = {"loss": 0.0, "correct": 0.0, "examples": 0.0, "seconds": 0.0}


@dataclasses.dataclass
class Progress:
    """Where training stands; saved as JSON with each checkpoint."""

    step: int = 0  # steps whose metrics have arrived; what a checkpoint stands for
    dispatched: int = 0  # steps handed to the device
    epochs_done: int = 0  # epochs trained and validated
    window: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)  # not logged yet
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

    @property
    def is_best(self) -> bool:
        """Whether the epoch that has ended is the best one so far."""
        return self.best is not None and self.best["epoch"] == self.epochs_done

    def end_epoch(
        self, scores: dict[str, Any], more: dict[str, Any], patience: int, ranking: Ranking | None
    ) -> None:
        """Record the scores of a validation, and more about it: epochs done, best, patience.

        Without scores, where no reviews are held out, the newest epoch is the best. Without a
        ranking, it is no candidate.
        """
        self.epochs_done += 1
        self.last_epoch = self.epoch
        self.epoch = EMPTY_SUMS.copy()
        if ranking is None:
            return
        now = {**scores, **more, "step": self.step, "epoch": self.epochs_done}
        if not scores:
            self.best = now
            return
        rank = ranking.key(now)
        before = ranking.key(self.best)
        self.epochs_since_best = 0 if rank > before else self.epochs_since_best + 1
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
    """What is trained, where it writes, how far it is. The stages fill it in, in their order."""

    task: Task
    config: Config
    directory: RunDirectory
    start: Start
    sources: list[str] | None  # sha256 of what it learns from; None: it needs nothing any more
    stop: Stop
    options: Options
    cleanup: contextlib.ExitStack  # closes files, however the run ends
    # From cross_validation.cross_validate on, if there are folds:
    cross_validated: dict[str, Any] = dataclasses.field(default_factory=dict)  # of result.json
    median_epochs: int = 0  # of the folds' best: after it the training on all reviews ends
    fold_seconds: float = 0.0  # of their training
    compile_seconds: float = 0.0  # before the first step
    result: dict[str, Any] = dataclasses.field(default_factory=dict)  # of result.json
    # From stages.prepare on:
    experiment: Experiment = dataclasses.field(init=False)
    # From stages.record on, unless a checkpoint is restored; until the first step:
    params: Any = None
    load_report: LoadReport | None = None
    # From stages.fit on:
    checkpoints: Checkpoints = dataclasses.field(init=False)
    progress: Progress = dataclasses.field(default_factory=Progress)
    learning_rate: Callable[[int], float] = dataclasses.field(init=False)
    log: MetricsLog = dataclasses.field(init=False)
    train_step: Wrapped = dataclasses.field(init=False)
    state: Any = None  # steps.TrainState, until the last step
    compiled_shapes: set[Any] = dataclasses.field(default_factory=set)  # of the steps' tokens
    validation: Validation | None = None  # of the last epoch
    # From stages.test on, where the test set is scored:
    trained: TrainedModel | None = None
    tested: ReviewScores | None = None

    @property
    def best(self) -> dict[str, Any]:
        """Step, epoch and scores of the best epoch, once one has ended."""
        assert self.progress.best is not None
        return self.progress.best

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return count_parameters(self.experiment.model)

    @property
    def epochs(self) -> int:
        """The epochs after which training ends; the schedule is that of `Experiment.epochs`."""
        return self.median_epochs or self.experiment.epochs

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches of the training split; 1 if no gradient steps are taken."""
        if not self.config.optimizer.takes_steps:
            return 1
        return math.ceil(len(self.experiment.encoded["train"]) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """The steps after which training ends."""
        return self.epochs * self.steps_per_epoch

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

    def check_stop(self) -> None:
        """Interrupt the run if a signal came."""
        if self.stop.asked():
            self.interrupt()

    def interrupt(self) -> None:
        """Save, unless training has ended or the step is saved, and raise Interrupted."""
        if self.state is not None and self.progress.step not in self.checkpoints.steps:
            self.save()
        raise Interrupted(f"saved step {self.progress.step}; {self.stop.remedy}")


Stage: TypeAlias = Callable[[TrainingRun], None]  # or what is done beside the training, a hook
