"""What an experiment's steps need on the devices, as the compiler reports it before any step runs.

JAX compiles a function once per shape: a step that is compiled here is the one that runs later.
"""

import dataclasses
import time
from typing import Any

import jax
import numpy as np

from sentiment_jax.config.schema import Config
from sentiment_jax.data import batches
from sentiment_jax.errors import RunError
from sentiment_jax.runtime import devices
from sentiment_jax.training import scoring
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.resume import abstract_state


def peak_bytes(compiled: Any) -> int:
    """Return what a compiled program holds at once on a device, by its compiler's account."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def batch_like(experiment: Experiment, mode: str, length: int) -> batches.Batch:
    """Return a batch in the shape of the mode's: of padding, or of packed texts, the largest."""
    encoded = experiment.encoded["train"]
    planned = batches.PlannedBatch(np.zeros(0, np.int64), length)
    if mode == "training":
        if experiment.packs:
            planned = experiment.plan_epoch(0)[0]
        return experiment.training_batch(planned)
    size = experiment.config.eval_batch_size
    if experiment.packs:
        passes = []
        for split in (experiment.encoded["val"], experiment.encoded["test"]):
            fitting = min(size, len(split))
            plan = scoring.plan_pass(experiment, split, fitting)
            passes += [(made, split, fitting) for made in plan]
        # Attention takes the square of a row.
        planned, encoded, size = max(passes, key=lambda made: made[0].rows * made[0].length ** 2)
    return batches.make_batch(dataclasses.replace(encoded, targets=None), planned, size)


def compile_step(experiment: Experiment, mode: str, length: int) -> int:
    """Compile training or evaluation at a padded length; return its peak bytes on a device."""
    batch = devices.put_batch(batch_like(experiment, mode, length), experiment.mesh)
    state = abstract_state(experiment)
    if mode == "training":
        lowered = experiment.task.make_train_step(experiment).lower(state, batch, np.float32(0))
    else:
        lowered = experiment.task.make_eval_step(experiment).lower(state.params, batch)
    return peak_bytes(lowered.compile())


def modes_of(config: Config) -> tuple[str, ...]:
    """Return what a run computes on the devices: training, if it takes steps, and evaluation."""
    return ("training", "evaluation") if config.optimizer.takes_steps else ("evaluation",)


def padded_lengths(experiment: Experiment, mode: str) -> tuple[int, ...]:
    """Return the lengths that batches are padded to, up to that of the longest text."""
    if experiment.packs:
        return experiment.buckets[-1:]
    of_mode = {"train"} if mode == "training" else {"val", "test"}
    splits = [texts for name, texts in experiment.encoded.items() if name in of_mode]
    longest = max(texts.lengths.max(initial=0) for texts in splits)
    return experiment.buckets[: int(np.searchsorted(experiment.buckets, longest)) + 1]


def mebibytes(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 2**20:,.1f} MiB"


def check_memory(experiment: Experiment) -> float:
    """Compile the longest steps where devices report their memory; return the seconds spent.

    RunError: a step needs more than a device has.
    """
    start = time.perf_counter()
    limit = devices.memory_limit()
    if limit is None:
        return 0.0
    optimizer_state = jax.tree.leaves(abstract_state(experiment).opt_state)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in optimizer_state)
    for mode in modes_of(experiment.config):
        length = padded_lengths(experiment, mode)[-1]
        needed = compile_step(experiment, mode, length)
        room = limit if mode == "training" else limit - kept
        if needed > room:
            rows, tokens = batch_like(experiment, mode, length)["token_ids"].shape[:2]
            size = "batch_size" if mode == "training" else "eval_batch_size"
            raise RunError(
                f"{mode} of {rows} rows x {tokens} tokens needs {mebibytes(needed)}; a device has "
                f"{mebibytes(room)} for it: lower {size} or data.max_length"
            )
    return time.perf_counter() - start
