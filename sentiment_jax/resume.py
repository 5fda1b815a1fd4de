"""Going on where a run stopped: bookkeeping, signals, and what must not have changed."""

import contextlib
import dataclasses
import math
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from sentiment_jax import checkpoint, devices, processes
from sentiment_jax import config as configs
from sentiment_jax.errors import InputError, Interrupted, RunError
from sentiment_jax.train_step import TrainState

# Fields that change no number of a run: where data lie (their hash is compared), and how often
# something is written.
HARMLESS = (
    "eval_batch_size",
    "log_every",
    "checkpoint_every",
    "data.path",
    "data.cache",
    "model.pretrained",
    "shard_params",
    "example_texts",
)
RUN_FILES = (
    "config.json",
    "env.json",
    "tokenizer.json",
    "metrics.jsonl",
    "result.json",
    "curves.png",
    "predictions.csv",
    "lengths.csv",
    "failed.json",
)
EMPTY_SUMS = {"loss": 0.0, "correct": 0.0, "examples": 0.0, "seconds": 0.0}


class Stop:
    """Turns SIGTERM and Ctrl-C into a request; a second signal exits at once."""

    def __init__(self) -> None:
        """No signal yet."""
        self.requested = False
        self._posted: Any = False
        self._previous: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(143)
        self.requested = True
        for handler in self._previous.values():  # a sweep's, around its run's: it stops as well
            if isinstance(outer := getattr(handler, "__self__", None), Stop):
                outer.requested = True
        print("\nstopping after this step; a second signal exits at once", file=sys.stderr)

    def __enter__(self) -> "Stop":
        """Installs the handlers (in the main thread; elsewhere signals stay as they are)."""
        with contextlib.suppress(ValueError):
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the former handlers back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether to stop at this step; asked once a step, all processes get the same answer.

        Several processes learn what was asked up to the step before: waiting for this step's
        answer would leave the devices idle.
        """
        if processes.count() == 1:
            return self.requested
        earlier, self._posted = self._posted, processes.any_of(self.requested)
        return bool(earlier)

    def check(self, step: int) -> None:
        """Raises Interrupted where a signal came; the caller saves `step`."""
        if self.asked():
            self.interrupt(step)

    def interrupt(self, step: int) -> None:
        """Ends the run; `step` is saved, or the caller saves it."""
        raise Interrupted(f"saved step {step}; run the same command to continue")


@dataclasses.dataclass
class Bookkeeping:
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
        """Adds one finished step."""
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
        """Records a validation: epochs done, best, patience."""
        self.epochs_done += 1
        self.last_epoch, self.epoch = self.epoch, EMPTY_SUMS.copy()
        now = {**scores.summary(), "step": self.step, "epoch": self.epochs_done}
        self.epochs_since_best += 1
        if math.isfinite(now["loss"]):
            best = None if self.best is None else checkpoint.score(self.best)
            if best is None or checkpoint.score(now) > best:
                self.epochs_since_best = 0
            if best is None or checkpoint.score(now) >= best:
                self.best = now  # of equals the newest, as Orbax keeps them
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


def remove_run(workdir: Path) -> None:
    """Deletes the files of an earlier run, and nothing else."""
    if not processes.is_first():
        return
    for name in RUN_FILES:
        (workdir / name).unlink(missing_ok=True)
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)


def check_config(workdir: Path, config: ConfigDict, allow_changes: bool) -> list[str]:
    """Compares the run's config with the one asked for.

    Returns:
      The differences that matter; only non-empty when they are allowed.

    Raises:
      InputError: they differ, and that was not allowed.
    """
    if not (workdir / "config.json").exists():
        if checkpoint.steps_in(workdir / "checkpoints"):
            raise InputError(
                f"{workdir} holds checkpoints but no config.json: put that file back, or start "
                "over with --fresh"
            )
        return []
    recorded = configs.read_run_config(workdir)
    changes = [
        change
        for change in configs.difference(recorded, config)
        if change.split(":")[0] not in HARMLESS
    ]
    if changes and not allow_changes:
        raise InputError(
            f"{workdir} was started with another config ({'; '.join(changes)}); choose another "
            "--workdir, --fresh to start over, or --allow_changes to go on all the same"
        )
    return changes


def check_best(checkpoints: checkpoint.Checkpoints) -> None:
    """Refuses to go on from a checkpoint that counts on a best one that was set aside.

    Of several processes all must call it together: Orbax waits for all when it reads.

    Raises:
      RunError: the best checkpoint is lost.
    """
    if not checkpoints.steps:
        return
    best = checkpoints.restore(checkpoints.steps[-1])["bookkeeping"]["best"]
    step = best["step"] if best else None
    if step not in checkpoints.steps and (checkpoints.directory / f"{step}.corrupt").exists():
        raise RunError(
            f"the best checkpoint in {checkpoints.directory} (step {step}) is damaged, and "
            "none from before it is left to go on from; --fresh starts over"
        )


def report_faults(checkpoints: checkpoint.Checkpoints) -> None:
    """Warns of checkpoints set aside.

    Raises:
      RunError: every checkpoint is bad.
    """
    if not checkpoints.faults:
        return
    listed = checkpoints.describe_faults()
    if not checkpoints.steps:
        raise RunError(
            f"every checkpoint in {checkpoints.directory} is bad ({listed}); --fresh starts over"
        )
    lost = max(checkpoints.faults) - checkpoints.steps[-1]
    print(
        f"warning: damaged checkpoints set aside as N.corrupt ({listed}); going on from step "
        f"{checkpoints.steps[-1]}, {max(lost, 0)} steps are computed again",
        file=sys.stderr,
    )


def restore(
    checkpoints: checkpoint.Checkpoints, shapes: TrainState, seed: int, mesh: Mesh, shard: bool
) -> tuple[TrainState, Bookkeeping]:
    """Rebuilds state and bookkeeping from the newest checkpoint, on the devices."""
    step = checkpoints.steps[-1]
    items = checkpoints.restore(
        step,
        params=devices.abstract(shapes.params, mesh, shard),
        opt_state=devices.abstract(shapes.opt_state, mesh, shard),
    )
    state = TrainState(
        step=devices.place(jax.numpy.int32(step), mesh),
        params=items["params"],
        opt_state=items["opt_state"],
        key=devices.place(jax.random.key(seed), mesh),
    )
    return state, Bookkeeping(**items["bookkeeping"])
