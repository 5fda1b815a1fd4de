"""What an experiment's steps take on the devices at hand, by their compiler, before one runs.

JAX compiles a function once per shape: a step that is compiled here is the one that runs later.
"""

import dataclasses
import functools
import math
import time
from typing import Any

import jax
import numpy as np
from jax.stages import Wrapped

from sentiment_jax.data import batches
from sentiment_jax.errors import RunError
from sentiment_jax.models.registry import abstract_params
from sentiment_jax.runtime import devices
from sentiment_jax.training import flops, scoring, steps
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives import ngram_vectors


def make_train_step(experiment: Experiment, parts: int | None = None) -> Wrapped:
    """Return the training step of the config, or one with another number of `parts`."""
    objective = experiment.objective
    if isinstance(objective, ngram_vectors.NgramVectors):
        return ngram_vectors.make_train_step(objective)
    config = experiment.config
    parts = parts or config.gradient_accumulation
    return steps.make_train_step(experiment.model, config.optimizer, objective, parts)


def abstract_state(experiment: Experiment) -> Any:
    """Return shapes, dtypes and shardings of the training state; nothing is allocated."""
    config = experiment.config
    create = functools.partial(steps.create_state, optimizer=config.optimizer, seed=config.seed)
    state = jax.eval_shape(create, abstract_params(experiment.model))
    return devices.abstract(state, experiment.mesh)


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What a compiled step needs: memory on each device, FLOPs on all together."""

    rows: int
    peak_bytes: int
    flops: int  # of the matrix products
    compile_seconds: float


def peak_bytes(compiled: Any) -> int:
    """Return what a compiled program holds at once on a device, by its compiler's account."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    return held - memory.alias_size_in_bytes


def compile_step(
    experiment: Experiment, mode: str, length: int, rows: int = 0, parts: int | None = None
) -> CompiledStep:
    """Compile training or evaluation at a padded length, or with other `rows` or `parts`."""
    start = time.perf_counter()
    config = experiment.config
    trains = mode == "training"
    rows = rows or (config.batch_size if trains else config.eval_batch_size)
    padding = batches.PlannedBatch(np.zeros(0, np.int64), length)
    encoded = experiment.encoded["train"]
    if not trains:
        encoded = dataclasses.replace(encoded, targets=None)
    padded = batches.make_batch(encoded, padding, rows)
    batch = devices.put_batch(padded, experiment.mesh)
    state = abstract_state(experiment)
    if trains:
        lowered = make_train_step(experiment, parts).lower(state, batch, np.float32(0))
    elif config.pretrain.objective:
        step = scoring.make_sums_step(experiment.model, experiment.objective, config.seed)
        lowered = step.lower(state.params, batch)
    else:
        lowered = scoring.make_eval_step(experiment.model).lower(state.params, batch)
    peak = peak_bytes(lowered.compile())
    seconds = time.perf_counter() - start
    shape = padded["token_ids"].shape
    cost = flops.training_flops(experiment.model, experiment.objective, shape)
    if not trains:
        cost //= 3
    return CompiledStep(rows, peak, cost, seconds)


def padded_lengths(experiment: Experiment, mode: str) -> tuple[int, ...]:
    """Return the lengths that batches are padded to, up to that of the longest review."""
    of_mode = {"train"} if mode == "training" else {"val", "test"}
    splits = [reviews for name, reviews in experiment.encoded.items() if name in of_mode]
    longest = max(reviews.lengths.max(initial=0) for reviews in splits)
    return experiment.buckets[: int(np.searchsorted(experiment.buckets, longest)) + 1]


def mebibytes(count: int) -> str:
    """Return a number of bytes as a person reads it."""
    return f"{count / 2**20:,.1f} MiB"


def check_memory(experiment: Experiment) -> float:
    """Compile the longest steps where devices report their memory; return the seconds spent.

    RunError: a step needs more than a device has. The settings that fit are named.
    """
    start = time.perf_counter()
    limit = devices.memory_limit()
    if limit is None:
        return 0.0
    config = experiment.config
    size = config.batch_size
    parts = config.gradient_accumulation
    rows = size // experiment.mesh.size
    finer = [n for n in range(parts + 1, rows + 1) if rows % n == 0]
    remedies = {f"batch_size={size // n}": {"rows": size // n} for n in finer}
    if not isinstance(experiment.objective, ngram_vectors.NgramVectors):
        remedies = {
            f"gradient_accumulation={n} or --config.batch_size={size * parts // n}": {"parts": n}
            for n in finer
        }
    _check_fits(experiment, "training", limit, remedies)
    optimizer_state = jax.tree.leaves(abstract_state(experiment).opt_state)
    limit -= sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in optimizer_state)
    halves = [config.eval_batch_size >> n for n in range(1, config.eval_batch_size.bit_length())]
    shared = [n for n in halves if n % experiment.mesh.size == 0]
    remedies = {f"eval_batch_size={n}": {"rows": n} for n in shared}
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
    problem = (
        f"{mode} of {step.rows} reviews x {length} tokens needs {mebibytes(step.peak_bytes)}; "
        f"a device has {mebibytes(limit)} for it"
    )
    for remedy, changes in remedies.items():
        need = compile_step(experiment, mode, length, **changes).peak_bytes
        if need <= limit:
            raise RunError(f"{problem}: use --config.{remedy} ({mebibytes(need)})")
    raise RunError(
        f"{problem}, and one review at a time needs more too: lower data.max_length or choose a "
        "smaller model"
    )
