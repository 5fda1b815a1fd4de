"""Where a training stands: one frozen value, saved as JSON with each checkpoint."""

import dataclasses
from typing import Any

from sentiment_jax.errors import Interrupted
from sentiment_jax.storage.checkpoints import Checkpoints
from sentiment_jax.storage.metrics_log import MetricsLog
from sentiment_jax.storage.selection import WORST, Ranking
from sentiment_jax.training.signals import Stop

Sums = dict[str, float]  # loss, correct, examples, seconds
NO_SUMS: Sums = {"loss": 0.0, "correct": 0.0, "examples": 0.0, "seconds": 0.0}


@dataclasses.dataclass(frozen=True)
class Progress:
    """The steps and epochs that a training has behind it, and its best epoch."""

    step: int = 0  # steps whose metrics have arrived; what a checkpoint stands for
    epochs_done: int = 0  # epochs trained and validated
    window: Sums = dataclasses.field(default_factory=NO_SUMS.copy)  # not logged yet
    epoch: Sums = dataclasses.field(default_factory=NO_SUMS.copy)  # this one
    train_seconds: float = 0.0
    compile_seconds: float = 0.0
    best: dict[str, Any] | None = None  # step, epoch and scores of the best epoch, once one ended
    epochs_since_best: int = 0

    def replace(self, **changes: Any) -> "Progress":
        """Return the progress with other values."""
        return dataclasses.replace(self, **changes)

    def add(self, sums: Sums, seconds: float) -> "Progress":
        """Return the progress after one more step."""
        more = {**{name: sums[name] for name in NO_SUMS if name in sums}, "seconds": seconds}
        return self.replace(
            step=self.step + 1,
            window={name: value + more[name] for name, value in self.window.items()},
            epoch={name: value + more[name] for name, value in self.epoch.items()},
            train_seconds=self.train_seconds + seconds,
        )

    @property
    def is_best(self) -> bool:
        """Whether the epoch that has ended is the best one so far."""
        return self.best is not None and self.best["epoch"] == self.epochs_done

    def has_stopped(self, patience: int) -> bool:
        """Whether so many epochs have brought no better score; a patience of 0 never ends."""
        return bool(patience) and self.epochs_since_best >= patience

    def end_epoch(
        self, scores: dict[str, Any], more: dict[str, Any], ranking: Ranking | None
    ) -> "Progress":
        """Return the progress after a validation, by its scores and what is recorded beside them.

        Without scores, where no texts are held out, the newest epoch is the best. Without a
        ranking, it is no candidate.
        """
        ended = self.replace(epochs_done=self.epochs_done + 1, epoch=NO_SUMS.copy())
        if ranking is None:
            return ended
        now = {**scores, **more, "step": self.step, "epoch": ended.epochs_done}
        if not scores:
            return ended.replace(best=now)
        rank = ranking.key(now)
        before = ranking.key(self.best)
        best = now if rank >= before and rank != WORST else self.best
        since = 0 if rank > before else self.epochs_since_best + 1
        return ended.replace(best=best, epochs_since_best=since)


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A training that has ended: how far it came, its log and checkpoints, the best among them."""

    progress: Progress
    checkpoints: Checkpoints
    log: MetricsLog
    stop: Stop

    def check_stop(self) -> None:
        """Raise Interrupted if a signal came: all steps are saved."""
        if self.stop.asked():
            raise Interrupted(f"saved step {self.progress.step}; {self.stop.remedy}")

    @property
    def best(self) -> dict[str, Any]:
        """Step, epoch and scores of the best epoch."""
        assert self.progress.best is not None
        return self.progress.best


def averages(sums: Sums) -> tuple[float, float, float]:
    """Return mean loss, accuracy (dropout on, parameters moving) and examples per second."""
    examples = sums["examples"]
    rate = examples / max(sums["seconds"], 1e-9)
    return sums["loss"] / examples, sums["correct"] / examples, rate
