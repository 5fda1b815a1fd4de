"""What an experiment's steps take on the devices at hand, by their compiler, before one runs.

JAX compiles a function once per shape: a step that is compiled here is the one that runs later.
"""

import bisect
import dataclasses
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from sentiment_jax.config.stored import flatten
from sentiment_jax.config.validation import mixes_rows
from sentiment_jax.data import batches
from sentiment_jax.errors import RunError
from sentiment_jax.models.parameters import abstract_params
from sentiment_jax.runtime import devices
from sentiment_jax.training import flops, steps
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.registry import make_objective


def make_train_step(experiment: Experiment, parts: int | None = None) -> Any:
    """Return the training step of the config, or one with another number of `parts`."""
    parts = parts or experiment.config.gradient_accumulation
    objective = make_objective(experiment)
    return steps.make_train_step(experiment.model, experiment.optimizer, parts, objective)


def abstract_state(experiment: Experiment) -> Any:
    """Return shapes, dtypes and shardings of the training state; nothing is allocated."""
    config, params = experiment.config, abstract_params(experiment.model)
    create = functools.partial(steps.create_state, optimizer=experiment.optimizer, seed=config.seed)
    state = jax.eval_shape(create, params)
    return devices.abstract(state, experiment.mesh)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What a compiled step needs: memory on each device, FLOPs on all together."""

    mode: str  # training or evaluation
    rows: int
    length: int
    peak_bytes: int
    flops: int  # of the matrix products
    compile_seconds: float

    def __str__(self) -> str:
        return f"{self.mode} of {self.rows} reviews x {self.length} tokens"


def peak_bytes(compiled: Any) -> int:
    """Return what a compiled program holds at once on a device, by its compiler's account."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def compile_step(
    experiment: Experiment, mode: str, length: int, rows: int = 0, parts: int | None = None
) -> CompiledStep:
    """Compile training or evaluation at a padded length, or with other `rows` or `parts`."""
    config, trains, start = experiment.config, mode == "training", time.perf_counter()
    rows = rows or (config.batch_size if trains else config.eval_batch_size)
    padding = batches.PlannedBatch(np.zeros(0, np.int64), length)
    encoded = experiment.encoded["train"]
    encoded = encoded if trains else dataclasses.replace(encoded, targets=None)
    padded = batches.make_batch(encoded, padding, rows)
    batch, state = devices.put_batch(padded, experiment.mesh), abstract_state(experiment)
    objective = make_objective(experiment)
    step: Any = steps.make_eval_step(experiment.model)
    if config.pretrain.objective:
        step = steps.make_sums_step(experiment.model, objective, config.seed)
    arguments: tuple[Any, ...] = devices.abstract(state.params, experiment.mesh), batch
    if trains:
        step, arguments = make_train_step(experiment, parts), (state, batch, np.float32(0))
    peak = peak_bytes(step.lower(*arguments).compile())
    seconds = time.perf_counter() - start
    runs = padded["token_ids"].shape[2:]
    cost = flops.training_flops(experiment.model, rows, length, objective, runs)
    cost //= 1 if trains else 3
    return CompiledStep(mode, rows, length, peak, cost, seconds)


def padded_lengths(experiment: Experiment, mode: str) -> tuple[int, ...]:
    """Return the lengths that batches are padded to, up to that of the longest review."""
    of_mode = {"train"} if mode == "training" else {"val", "test"}
    splits = [reviews for name, reviews in experiment.encoded.items() if name in of_mode]
    longest = max(reviews.lengths.max(initial=0) for reviews in splits)
    return experiment.buckets[: int(np.searchsorted(experiment.buckets, longest)) + 1]


def compile_all(experiment: Experiment) -> Iterator[CompiledStep]:
    """Compile, one by one, every step that training and its evaluations may take."""
    for mode in ("training", "evaluation"):
        for length in padded_lengths(experiment, mode):
            yield compile_step(experiment, mode, length)


def mebibytes(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 2**20:,.1f} MiB"


def check_memory(experiment: Experiment) -> float:
    """Compile the longest steps where devices report their memory; return the seconds spent.

    RunError: a step needs more than a device has. The settings that fit are named.
    """
    limit, start = devices.memory_limit(), time.perf_counter()
    if limit is None:
        return 0.0
    config, each, state = experiment.config, experiment.mesh.size, abstract_state(experiment)
    size, parts = config.batch_size, config.gradient_accumulation
    finer = [n for n in range(parts + 1, size // each + 1) if size // each % n == 0]
    remedies = {
        f"gradient_accumulation={n} or --config.batch_size={size * parts // n}": {"parts": n}
        for n in finer
    }
    if hasattr(make_objective(experiment), "descend") or mixes_rows(flatten(config)):  # no parts
        remedies = {f"batch_size={size // n}": {"rows": size // n} for n in finer}
    _check_fits(experiment, "training", limit, remedies)
    kept = state.opt_state  # beside the parameters evaluated
    limit -= sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(kept)
    )
    halves = [config.eval_batch_size >> n for n in range(1, config.eval_batch_size.bit_length())]
    remedies = {f"eval_batch_size={n}": {"rows": n} for n in halves if n % each == 0}
    _check_fits(experiment, "evaluation", limit, remedies)
    return time.perf_counter() - start


def _check_fits(
    experiment: Experiment, mode: str, limit: int, remedies: dict[str, dict[str, int]]
) -> None:
    """Raise a RunError if a mode's longest step needs more; `remedies` need less and less."""
    length = padded_lengths(experiment, mode)[-1]
    step = compile_step(experiment, mode, length)
    if step.peak_bytes <= limit:
        return

    def needs(remedy: str) -> int:
        return compile_step(experiment, mode, length, **remedies[remedy]).peak_bytes

    problem = f"{step} needs {mebibytes(step.peak_bytes)}; a device has {mebibytes(limit)} for it"
    names = list(remedies)
    first = bisect.bisect_left(names, True, key=lambda name: needs(name) <= limit)
    if first == len(names):
        smaller = "lower data.max_length or choose a smaller model"
        raise RunError(f"{problem}, and one review at a time needs more too: {smaller}")
    raise RunError(f"{problem}: use --config.{names[first]} ({mebibytes(needs(names[first]))})")
