"""Scoring: a jitted step gives every review its loss and probability; the host sums them.

Padded rows are never summed and every review counts once: accuracy does not depend on batch size.
"""

import dataclasses
import functools
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from jax.stages import Wrapped
from jaxtyping import Array, Float32

from sentiment_jax.data import batches
from sentiment_jax.data.batches import Rows
from sentiment_jax.data.encoding import Encoded
from sentiment_jax.data.labels import decide
from sentiment_jax.runtime import devices
from sentiment_jax.runtime.terminal import progress_bar
from sentiment_jax.training.experiment import Experiment
from sentiment_jax.training.objectives.masked_language_modeling import mean_nats
from sentiment_jax.training.objectives.objective import Batch, Objective, cross_entropy, forward
from sentiment_jax.training.trained_model import Classifier

Result = TypeVar("Result")


def one_behind(results: Iterable[Result]) -> Iterator[Result]:
    """Yield each result, which is then waited for, once the next one is dispatched."""
    with_end: Iterator[Any] = itertools.chain(results, [None])
    return (result for result, _ in itertools.pairwise(with_end))


@dataclasses.dataclass(frozen=True)
class Scores:
    """Loss (mean, nats) and accuracy of one split."""

    loss: float
    accuracy: float
    examples: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the part that goes into result.json."""
        left_out = ("seconds", "probabilities")
        return {name: value for name, value in vars(self).items() if name not in left_out}


@dataclasses.dataclass(frozen=True)
class ReviewScores(Scores):
    """Each review's probabilities in its order."""

    probabilities: Float32[np.ndarray, "reviews classes"]


@dataclasses.dataclass(frozen=True)
class TextScores(Scores):
    """The perplexity of held-out text; loss and accuracy are per example."""

    perplexity: float


def score_reviews(
    classifier: Classifier,
    params: Any,
    encoded: Encoded,
    description: str,
    *,
    batch_size: int | None = None,
    stop: Callable[[], None] | None = None,
) -> ReviewScores:
    """Score each review once; the seconds include compilation.

    A batch has the config's `eval_batch_size`, or all reviews if these are fewer. Another
    `batch_size` affects speed only; it is rounded up to a multiple of the number of devices. `stop`
    is called between batches and may raise to end the scoring; `description` labels the progress
    bar.
    """
    start = time.perf_counter()
    size = batch_size or min(classifier.config.eval_batch_size, len(encoded))
    losses = np.full(len(encoded), np.nan)
    probabilities = np.full((len(encoded), len(classifier.classes)), np.nan, np.float32)
    examples = 0
    step = make_eval_step(classifier.model)
    for rows, outputs in _apply(step, classifier, params, encoded, size, description, stop):
        losses[rows] = devices.fetch(outputs[0])[: len(rows)]
        probabilities[rows] = devices.fetch(outputs[1])[: len(rows)]
        examples += len(rows)
    assert examples == len(encoded), f"{examples} of {len(encoded)} reviews scored"
    return ReviewScores(
        loss=float(np.mean(losses)),
        accuracy=int(np.sum(decide(probabilities) == encoded.labels)) / examples,
        examples=examples,
        seconds=time.perf_counter() - start,
        probabilities=probabilities,
    )


def score_text(
    experiment: Experiment,
    params: Any,
    encoded: Encoded,
    description: str,
    *,
    stop: Callable[[], None] | None = None,
) -> TextScores:
    """Score each segment once by the objective of a pre-training, its masks always the same."""
    start = time.perf_counter()
    objective: Any = experiment.objective
    step = make_sums_step(experiment.model, objective, experiment.config.seed)
    totals: dict[str, float] = defaultdict(float)
    size = min(experiment.config.eval_batch_size, len(encoded))
    for _, sums in _apply(step, experiment, params, encoded, size, description, stop):
        for name, value in jax.device_get(sums).items():
            totals[name] += float(value)
    examples = totals["examples"]
    return TextScores(
        loss=objective.mean_loss(totals),
        accuracy=totals["correct"] / examples,
        examples=round(examples),
        perplexity=math.exp(min(mean_nats(totals), 700)),
        seconds=time.perf_counter() - start,
    )


def _apply(
    step: Callable[[Any, Batch], Any],
    classifier: Classifier,
    params: Any,
    encoded: Encoded,
    batch_size: int,
    description: str,
    stop: Callable[[], None] | None,
) -> Iterator[tuple[Rows, Any]]:
    """Yield the rows of each batch of a pass over encoded reviews, and the step's outputs."""
    buckets = classifier.buckets
    batch_size = -(-batch_size // classifier.mesh.size) * classifier.mesh.size
    params = jax.device_put(params, devices.replicated(classifier.mesh))
    plan = batches.plan_evaluation(encoded.lengths, batch_size=batch_size, buckets=buckets)

    def dispatch() -> Iterator[tuple[Rows, Any]]:
        for planned in plan:
            if stop is not None:
                stop()
            batch = batches.make_batch(encoded, planned, batch_size)
            yield planned.indices, step(params, devices.put_batch(batch, classifier.mesh))

    with progress_bar(len(encoded), description, unit="review") as bar:
        for rows, outputs in one_behind(dispatch()):
            yield rows, outputs
            bar.update(len(rows))


@functools.lru_cache(maxsize=8)
def make_sums_step(model: nn.Module, objective: Objective, seed: int) -> Wrapped:
    """Return the jitted (params, batch) -> an objective's sums, the same each time."""

    def sums_step(params: Any, batch: Batch) -> dict[str, Array]:
        return objective(model, params, batch, jax.random.key(seed), deterministic=True)

    return jax.jit(sums_step)


@functools.lru_cache(maxsize=8)
def make_eval_step(model: nn.Module) -> Wrapped:
    """Return the jitted (params, batch) -> losses [batch], probabilities [batch, classes]."""

    def eval_step(params: Any, batch: Batch) -> tuple[Array, Array]:
        logits = forward(model, params, batch["token_ids"], batch["lengths"])
        return cross_entropy(logits, batch["labels"]), jax.nn.softmax(logits)

    return jax.jit(eval_step)
