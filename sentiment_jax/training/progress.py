"""How far a run is: what a resumed run needs besides parameters and optimiser state."""

import dataclasses
import math
from typing import Any

from sentiment_jax.storage.metrics_log import validation_rank

EMPTY_SUMS = {"loss": 0.0, "correct": 0.0, "examples": 0.0, "seconds": 0.0}


@dataclasses.dataclass
class Progress:
    """What a resumed run must know besides parameters and optimiser state; saved as JSON."""

    step: int = 0  # steps whose metrics have arrived; what a checkpoint stands for
    dispatched: int = 0  # steps handed to the device
    epochs_done: int = 0  # epochs trained and validated
    window: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    epoch: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    last_epoch: dict[str, float] = dataclasses.field(default_factory=EMPTY_SUMS.copy)
    train_seconds: float = 0.0
    train_flops: int = 0  # of the matrix products, see flops.py
    compile_seconds: float = 0.0
    best: dict[str, Any] | None = None
    epochs_since_best: int = 0
    stopped_early: bool = False
    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of metrics.jsonl

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)

    def add(self, sums: dict[str, float], seconds: float, flops: int) -> None:
        """Add one finished step."""
        self.step += 1
        for total in (self.window, self.epoch):
            for name in ("loss", "correct", "examples"):
                total[name] += sums[name]
            total["seconds"] += seconds
        self.train_seconds += seconds
        self.train_flops += flops

    def window_record(self, learning_rate: float, epoch: int) -> dict[str, Any]:
        """The training line of metrics.jsonl since the last one, and a new window."""
        sums, self.window = self.window, EMPTY_SUMS.copy()
        return {
            "step": self.step,
            "epoch": epoch + 1,
            "split": "train",
            "loss": sums["loss"] / sums["examples"],
            "accuracy": sums["correct"] / sums["examples"],
            "examples": int(sums["examples"]),
            "seconds": round(sums["seconds"], 3),
            "learning_rate": learning_rate,
        }

    def rates(self) -> str:
        """Loss, accuracy and speed of the epoch so far, for the progress bar."""
        sums = self.epoch
        return (
            f"loss {sums['loss'] / sums['examples']:.4f} accuracy "
            f"{sums['correct'] / sums['examples']:.4f} {_rate(sums):.1f} examples/s"
        )

    def end_epoch(self, scores: Any, patience: int) -> None:
        """Record a validation: epochs done, best, patience."""
        self.epochs_done += 1
        self.last_epoch, self.epoch = self.epoch, EMPTY_SUMS.copy()
        now = {**scores.summary(), "step": self.step, "epoch": self.epochs_done}
        self.epochs_since_best += 1
        if math.isfinite(now["loss"]):
            best = None if self.best is None else validation_rank(self.best)
            if best is None or validation_rank(now) > best:
                self.epochs_since_best = 0
            if best is None or validation_rank(now) >= best:
                self.best = now  # of equals the newest
        self.stopped_early = bool(patience) and self.epochs_since_best >= patience

    @property
    def epoch_loss(self) -> float:
        """Mean training loss of the last complete epoch."""
        return self.last_epoch["loss"] / self.last_epoch["examples"]

    @property
    def epoch_accuracy(self) -> float:
        """Training accuracy of the last complete epoch (dropout on, parameters moving)."""
        return self.last_epoch["correct"] / self.last_epoch["examples"]

    @property
    def epoch_rate(self) -> float:
        """Training examples per second of the last complete epoch, compilation apart."""
        return _rate(self.last_epoch)


def _rate(sums: dict[str, float]) -> float:
    return sums["examples"] / max(sums["seconds"], 1e-9)
